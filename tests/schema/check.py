"""Lets real validators judge configurations by `tidegate schema`: what must pass passes, what must fail fails where it
is wrong. Needs the packages jsonschema and taplo.

check.py TIDEGATE TAPLO CASES
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import tomllib

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALWAYS_SET = {**os.environ, "NO_COLOR": "1"}


def texts():
    """Every Markdown file of the project, as tests/documentation.rs takes them."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and name != "target" and not (pathlib.Path(folder, name, "CACHEDIR.TAG")).exists()
        ]
        for name in files:
            if name.endswith(".md"):
                yield pathlib.Path(folder, name)


def blocks():
    """Whole configurations in the texts."""
    for path in sorted(texts()):
        for number, rest in enumerate(path.read_text().split("```toml\n")[1:]):
            block = rest.split("\n```")[0]
            if "[[listener]]" in block and "[[route]]" in block:
                yield f"{path.relative_to(ROOT)}, block {number + 1}", block


def accepted_by(tidegate, path):
    return subprocess.run([tidegate, "check", path], env=ALWAYS_SET, capture_output=True).returncode == 0


def main(tidegate, taplo, cases):
    schema = json.loads(subprocess.run([tidegate, "schema"], check=True, capture_output=True).stdout)
    jsonschema.Draft7Validator.check_schema(schema)
    # The schema keeps to what draft-04 has as well.
    jsonschema.Draft4Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    faults = []

    must_pass = [(str(path.relative_to(ROOT)), path.read_text()) for path in sorted((ROOT / "config").glob("*.toml"))]
    assert len(must_pass) >= 4, must_pass
    for name, text in must_pass:
        if not text.startswith("#:schema ./schema.json\n"):
            faults.append(f"{name}: does not name its schema for editors")
    must_pass += [(str(path.relative_to(ROOT)), path.read_text()) for path in sorted((ROOT / "deploy").rglob("*.toml"))]
    must_pass += blocks()
    must_pass += [(path.name, path.read_text()) for path in sorted(pathlib.Path(cases).glob("*.toml"))]
    assert len(must_pass) > 100, f"only {len(must_pass)}: no files for each key in {cases}"
    golden = sorted((ROOT / "tests/config/golden").glob("*.toml"))
    must_pass += [(path.name, path.read_text()) for path in golden if accepted_by(tidegate, path)]
    for name, text in must_pass:
        for error in validator.iter_errors(tomllib.loads(text)):
            faults.append(f"{name}: {error.json_path}: {error.message[:200]}")

    wrong = tomllib.loads((ROOT / "tests/schema/wrong.toml").read_text())["wrong"]
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "schema.json").write_text(json.dumps(schema))
        for number, case in enumerate(wrong):
            name = f"wrong.toml, {case['why']}"
            path = pathlib.Path(folder) / f"{number:02}.toml"
            path.write_text("#:schema ./schema.json\n" + case["text"] + "\n")
            places = ["/".join(map(str, error.absolute_path)) for error in validator.iter_errors(tomllib.loads(case["text"]))]
            if places != [case["at"]]:
                faults.append(f"{name}: expected one fault at `{case['at']}`, got {places}")
            if accepted_by(tidegate, path):
                faults.append(f"{name}: `tidegate check` takes it")
            if not refused_by_taplo(taplo, path):
                faults.append(f"{name}: taplo takes it")
        right = list((ROOT / "config").glob("*.toml"))
        for number, (name, text) in enumerate(must_pass):
            right.append(pathlib.Path(folder) / f"right-{number}.toml")
            own = text.split("\n", 1)[1] if text.startswith("#:schema ") else text
            right[-1].write_text("#:schema ./schema.json\n" + own)
        done = run_taplo(taplo, *right)
        if done.returncode != 0:
            # It repeats one fault for everything in the table around it.
            faults += [f"taplo: {line}" for line in done.stderr.splitlines() if "invalid file" in line]
            faults += done.stderr.splitlines()[:12]

    for fault in faults:
        print(fault)
    print(f"{len(must_pass)} configurations must pass, {len(wrong)} must fail; {len(faults)} surprises")
    return 1 if faults else 0


def run_taplo(taplo, *paths):
    # Whatever is configured for somebody's editor is not asked.
    return subprocess.run(
        [taplo, "lint", "--no-auto-config", *paths], env=ALWAYS_SET, capture_output=True, text=True, cwd="/"
    )


def refused_by_taplo(taplo, path):
    done = run_taplo(taplo, path)
    # Its last lines are lost at times; those that point into the file are not.
    return done.returncode != 0 and f"─ {path}:" in done.stderr


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
