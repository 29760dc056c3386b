"""Prints the names, versions and licences of the crates that are linked into the program, each text once, as their
licences ask of whoever passes on a binary.

third_party.py < the output of `cargo metadata --locked --format-version 1 --filter-platform TRIPLE`
"""

import collections
import json
import pathlib
import re
import sys

NOTICES = re.compile(r"^(un)?(licen[cs]e|copying|copyright|notice)", re.IGNORECASE)


def linked(metadata):
    """Packages that the program needs at run time; what only builds or tests it is not passed on."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    waiting, found = [metadata["resolve"]["root"]], set()
    while waiting:
        package = waiting.pop()
        if package in found:
            continue
        found.add(package)
        for dependency in nodes[package]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    found.remove(metadata["resolve"]["root"])
    return sorted((p for p in metadata["packages"] if p["id"] in found), key=lambda p: (p["name"], p["version"]))


def notices(folder):
    for path in sorted(folder.iterdir()):
        if path.is_file() and NOTICES.match(path.name):
            yield path.read_text(errors="replace").replace("\r\n", "\n").strip("\n")


def main():
    packages = linked(json.load(sys.stdin))
    if len(packages) < 10:
        sys.exit(f"only {len(packages)} crates found")
    texts, without = collections.defaultdict(list), []
    print("Tidegate is linked with these crates, under the licences that each names.\n")
    for package in packages:
        name = f"{package['name']} {package['version']}"
        print(f"{name}: {package['license'] or 'see its text'}")
        found = list(notices(pathlib.Path(package["manifest_path"]).parent))
        for text in found:
            texts[text].append(name)
        if not found:
            without.append(name)
    if without:
        print(f"\nThese bring no text of their own: {', '.join(without)}.")
    for text, names in texts.items():
        print(f"\n{'=' * 100}\n{', '.join(names)}\n{'-' * 100}\n{text}")


main()
