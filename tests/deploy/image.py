"""Checks deploy/docker/Dockerfile where no registry can be reached, so that the images it starts from are not there: its first
stage's commands run on the files that it copies, but `cargo check` for the build; its last stage is put together by hand,
with this machine's libraries for those of the base image, and serves a request there, as its user, on a read-only root.
Needs root. It does not see what the base images bring, nor that Docker reads the file as it is read here.

image.py PROGRAM        PROGRAM is a release build
"""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
BUILD = "cargo build --locked --release"


def instructions():
    """(word, rest) of each instruction, by stage."""
    stages = []
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.strip() and not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, rest = line.split(None, 1)
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, rest))
    return stages


def passes_dockerignore(path):
    """The file has one rule for everything and the exceptions from it."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*" and all(rule.startswith("!") for rule in rules[1:]), rules
    return any(path == rule[1:] or path.startswith(rule[1:] + "/") for rule in rules[1:])


def copy(source, destination):
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination, dirs_exist_ok=True)
    else:
        shutil.copy2(source, destination / source.name if destination.is_dir() else destination)


def first_stage(stage):
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        builds = 0
        for word, rest in stage:
            if word == "COPY":
                *sources, destination = rest.split()
                for source in sources:
                    assert passes_dockerignore(source), f".dockerignore keeps {source} out"
                    target = work / destination
                    if destination.endswith("/"):
                        target.mkdir(parents=True, exist_ok=True)
                    copy(ROOT / source, target)
            elif word == "RUN":
                commands = [command.strip() for command in rest.split("&&")]
                builds += commands.count(BUILD)
                commands = ["cargo check --locked --quiet --bins" if c == BUILD else c for c in commands]
                commands = [command for command in commands if not command.startswith("strip ")]
                subprocess.run(" && ".join(commands), shell=True, check=True, cwd=work)
        assert builds == 2, "one build of the dependencies and one of the program"
    print("- the first stage copies all that its builds need")


def last_stage(stage, program, root):
    """Puts the image together; returns how it is started."""
    settings = {}
    libraries = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for line in libraries.splitlines():
        path = next((word for word in line.split() if word.startswith("/")), None)
        if path:
            copy(pathlib.Path(path), root / path[1:])
    for word, rest in stage:
        settings[word] = rest
        if word != "COPY":
            continue
        words = shlex.split(rest)
        options = dict(option[2:].split("=", 1) for option in words if option.startswith("--"))
        source, destination = [word for word in words if not word.startswith("--")]
        target = root / destination[1:]
        if options.get("from") == "build":
            if source == "/source/target/release/tidegate":
                copy(pathlib.Path(program), target)
            else:
                assert source == "/source/empty", source
                target.mkdir(parents=True)
        else:
            assert passes_dockerignore(source), f".dockerignore keeps {source} out"
            copy(ROOT / source, target)
        if "chown" in options:
            os.chown(target, *map(int, options["chown"].split(":")))
    assert settings["STOPSIGNAL"] == "SIGTERM"
    health = json.loads(settings["HEALTHCHECK"].split(" CMD ", 1)[1])
    return json.loads(settings["ENTRYPOINT"]), json.loads(settings["CMD"]), health, settings["USER"]


def inside(program):
    """In namespaces of our own."""
    stage = instructions()[-1]
    scratch = pathlib.Path("/mnt")
    run = lambda *words: subprocess.run(words, check=True)
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "-o", "mode=755", "none", scratch)
    root = scratch / "image"
    root.mkdir()
    entrypoint, arguments, health, user = last_stage(stage, program, root)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    run("mount", "--bind", root, root)
    run("mount", "-o", "remount,bind,ro", root)
    # A container brings a folder for what may be written.
    run("mount", "-t", "tmpfs", "-o", f"uid={user.split(':')[0]},mode=700", "none", root / "run/tidegate")
    run("ip", "link", "set", "lo", "up")
    uid, gid = user.split(":")
    assert int(uid) > 0, "not root"
    within = ["chroot", f"--userspec={uid}:{gid}", "--groups=", root]
    command = [*within, *entrypoint]
    version = subprocess.run([*command, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    serving = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
    answer = ""
    for _ in range(100):
        done = subprocess.run(["curl", "--silent", "--max-time", "2", "http://127.0.0.1:8080/"], capture_output=True, text=True)
        answer = done.stdout
        if done.returncode == 0 or serving.poll() is not None:
            break
        time.sleep(0.1)
    ready = subprocess.run(["curl", "--silent", "--fail", "http://127.0.0.1:9900/readyz"], stdout=subprocess.DEVNULL).returncode
    healthy = subprocess.run([*within, *health], capture_output=True, text=True)
    serving.terminate()
    _, log = serving.communicate(timeout=40)
    assert answer.startswith("Tidegate runs."), (answer, log)
    assert ready == 0, log
    assert healthy.returncode == 0, healthy.stderr
    assert serving.returncode == 0, (serving.returncode, log)
    print(f"- {version} as user {uid} in {size / 1e6:.1f} MB of files answers: {answer.strip()}")


def main(arguments):
    if arguments[0] == "--inside":
        return inside(arguments[1])
    stages = instructions()
    assert "bookworm" in stages[0][0][1] and "debian12" in stages[-1][0][1], "one C library for both stages"
    first_stage(stages[0])
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    subprocess.run([*namespaces, sys.executable, __file__, "--inside", arguments[0]], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
