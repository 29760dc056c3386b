"""Checks deploy/kubernetes: each manifest by the schemas of the oldest and the newest Kubernetes that is meant, what they say
of each other, and the configuration in them by `tidegate check`. Needs the packages kubernetes-validate and PyYAML.

kubernetes.py TIDEGATE
"""

import copy
import pathlib
import subprocess
import sys
import tempfile
import tomllib

import kubernetes_validate
import yaml

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "deploy/kubernetes"
VERSIONS = ["1.27", "1.37"]
# Kinds of the Prometheus operator have no schema in Kubernetes.
FOREIGN = {"ServiceMonitor"}


def valid(manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)


def load():
    manifests = {}
    for path in sorted(FOLDER.rglob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text()):
            manifests[(manifest["kind"], manifest["metadata"]["name"])] = manifest
    return manifests


def seconds(text):
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    number = text.rstrip("msh")
    return int(number) * units[text[len(number):]]


def by_the_schemas(manifests):
    for name, manifest in manifests.items():
        if name[0] in FOREIGN:
            continue
        for version in VERSIONS:
            valid(manifest, version)
            # The validator sees what it should: a key that is none is refused.
            wrong = copy.deepcopy(manifest)
            (wrong.get("spec") or wrong)["replicsa"] = 1
            try:
                valid(wrong, version)
            except kubernetes_validate.ValidationError:
                continue
            raise AssertionError(f"{name}: the schemas of {version} take a key that is none")


def by_each_other(manifests):
    deployment = manifests["Deployment", "tidegate"]["spec"]
    pod = deployment["template"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    def selects(selector):
        assert selector and selector.items() <= labels.items(), (selector, labels)

    selects(deployment["selector"]["matchLabels"])
    selects(manifests["PodDisruptionBudget", "tidegate"]["spec"]["selector"]["matchLabels"])
    for spread in pod["topologySpreadConstraints"]:
        selects(spread["labelSelector"]["matchLabels"])
    services = [manifest for (kind, _), manifest in manifests.items() if kind == "Service"]
    for service in services:
        selects(service["spec"]["selector"])
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports, port
    assert all(port["name"] != "observe" for port in manifests["Service", "tidegate"]["spec"]["ports"])
    monitor = manifests["ServiceMonitor", "tidegate"]["spec"]
    monitored = [s for s in services if monitor["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()]
    assert [service["metadata"]["name"] for service in monitored] == ["tidegate-observe"], monitored
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in monitored[0]["spec"]["ports"]}

    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert ("ConfigMap", volumes["config"]["configMap"]["name"]) in manifests

    text = manifests["ConfigMap", "tidegate"]["data"]["tidegate.toml"]
    config = tomllib.loads(text)
    assert f"{mounts['config']}/tidegate.toml" in container["args"]
    bound = {int(listener["bind"].rsplit(":", 1)[1]) for listener in config["listener"]}
    bound.add(int(config["server"]["observe"]["bind"].rsplit(":", 1)[1]))
    assert bound == set(ports.values()), (bound, ports)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "observe"
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["/usr/bin/tidegate", "drain"]
    assert config["server"]["admin"]["bind"].startswith(f"unix:{mounts['run']}/")
    for listener in config["listener"]:
        for certificate in listener.get("tls", {}).get("certificates", []):
            assert all(path.startswith(mounts["tls"] + "/") for path in certificate.values()), certificate
    leaving = seconds(config["server"]["drain_delay"]) + seconds(config["server"]["drain_timeout"])
    assert pod["terminationGracePeriodSeconds"] > leaving + 5, leaving
    # Until a pod is known to be leaving.
    readiness = container["readinessProbe"]
    assert seconds(config["server"]["drain_delay"]) > readiness["periodSeconds"] * readiness["failureThreshold"]
    return text, mounts["tls"]


def by_tidegate(tidegate, text, mounted):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        subprocess.run([tidegate, "cert", "app.example.org", "--out", folder], check=True, capture_output=True)
        (folder / "app.example.org.pem").rename(folder / "tls.crt")
        (folder / "app.example.org.key").rename(folder / "tls.key")
        (folder / "tidegate.toml").write_text(text.replace(mounted, str(folder)))
        done = subprocess.run([tidegate, "check", folder / "tidegate.toml"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def main(tidegate):
    manifests = load()
    by_the_schemas(manifests)
    text, mounted = by_each_other(manifests)
    by_tidegate(tidegate, text, mounted)
    print(f"{len(manifests)} manifests hold for Kubernetes {' and '.join(VERSIONS)}, and their configuration for Tidegate")


if __name__ == "__main__":
    main(*sys.argv[1:])
