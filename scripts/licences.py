"""Check the licence of every distribution that is installed: python scripts/licences.py [SITE-PACKAGES].

What Ridgeline needs to run must be under a permissive licence; its tools may also be under the MPL. A distribution
that states no licence, or one that is not listed here, fails by name. Metadata is what is checked: a wheel may bundle
more (NumPy and SciPy bundle the runtime library of GCC, under the GPL with its runtime exception).
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "ridgeline"
EXTRAS = ("", "kernels")  # what a user may install

PERMISSIVE = frozenset({
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "HPND", "ISC",
    "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
})  # fmt: skip
TOOLS = PERMISSIVE | {"MPL-2.0"}
EXCEPTIONS = frozenset({"LLVM-exception"})  # what may follow WITH: they give more rights

# Licences in other words than SPDX's, of classifiers and of the older `License` field.
SPELLINGS = {
    "Apache 2.0": "Apache-2.0",
    "Apache-2.0 license": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "zlib/libpng License": "Zlib",
}
# Distributions whose metadata says nothing usable: name -> (licence, where it was read). None at present.
STATED_ELSEWHERE: dict[str, tuple[str, str]] = {}


def installed(folder: str | None) -> dict[str, metadata.Distribution]:
    """Distributions in ``folder``, or in this environment, by normalised name."""
    found = metadata.distributions(path=[folder]) if folder else metadata.distributions()
    return {canonicalize_name(each.metadata["Name"]): each for each in found}


def licences(distribution: metadata.Distribution) -> set[str]:
    """What its metadata states, in SPDX's words where they are known; every one of them must be allowed."""
    meta = distribution.metadata
    name = canonicalize_name(meta["Name"])
    if name in STATED_ELSEWHERE:
        return {STATED_ELSEWHERE[name][0]}
    if expressions := meta.get_all("License-Expression"):
        return set(re.findall(r"[\w.+-]+", expressions[0])) - {"AND", "OR", "WITH"} - EXCEPTIONS
    parts = (each.split(" :: ") for each in meta.get_all("Classifier") or [])
    stated = {each[-1] for each in parts if each[0] == "License" and each[-1] != "OSI Approved"}
    if not stated and (texts := meta.get_all("License")):
        stated = set(texts[0].strip().splitlines()[:1])
    return {SPELLINGS.get(each, each) for each in stated}


def run_time(everything: Mapping[str, metadata.Distribution]) -> set[str]:
    """Names of what a user's installation holds: ``ROOT``, what it requires, what that requires."""
    names: set[str] = set()
    ahead = [(ROOT, extra) for extra in EXTRAS]
    seen = set(ahead)
    while ahead:
        name, extra = ahead.pop()
        if name not in everything:  # a marker we cannot judge, or a distribution that is not installed
            continue
        names.add(name)
        for line in everything[name].requires or []:
            need = Requirement(line)
            if need.marker and not need.marker.evaluate({"extra": extra}):
                continue
            new = {(canonicalize_name(need.name), each) for each in ("", *need.extras)} - seen
            seen |= new
            ahead += new
    return names


def main(folder: str | None = None) -> int:
    everything = installed(folder)
    needed = run_time(everything)
    if ROOT not in needed:
        print(f"{ROOT} is not installed here: nothing to check")
        return 1
    wrong = []
    counts: Counter[str] = Counter()
    for name in sorted(everything):
        stated = licences(everything[name])
        counts.update(stated)
        refused = sorted(stated - (PERMISSIVE if name in needed else TOOLS))
        if refused or not stated:
            use = "needed to run" if name in needed else "a tool"
            said = ", ".join(each[:60] for each in refused) or "no licence in its metadata"
            wrong.append(f"{name} {everything[name].version} ({use}): {said}")
    print(f"{len(everything)} distributions, {len(needed)} of them needed to run: ", end="")
    print(", ".join(f"{licence} {count}" for licence, count in counts.most_common()))
    for line in wrong:
        print(f"not allowed: {line}")
    if wrong:
        print("Leave it out, or add its licence to scripts/licences.py with the reason.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
