"""What the classes use of Java and Android must be on the oldest phone. ProGuard lists what API 23 does not have."""

from __future__ import annotations

import re

# Not in the class library that is compiled against (API 23), but in API 26, the oldest that the app runs on: the level
# that Android's reference names for each. Members of these classes are not compared.
_CLASSES = {
    "java.lang.FunctionalInterface": 24,
    "java.nio.file.Files": 26,
    "java.nio.file.Path": 26,
    "java.nio.file.Paths": 26,
    "java.nio.file.attribute.FileAttribute": 26,
    "java.util.Base64": 26,
    "java.util.Base64$Decoder": 26,
    "java.util.Optional": 24,
    "java.util.function.Function": 24,
    "java.util.function.IntPredicate": 24,
    "java.util.function.LongSupplier": 24,
    "java.util.stream.Collectors": 24,
    "java.util.stream.DoubleStream": 24,
    "java.util.stream.IntStream": 24,
    "java.util.stream.LongStream": 24,
    "java.util.stream.Stream": 24,
}
_MEMBERS = {
    "java.lang.Math: long floorDiv(long,long)": 24,
    "java.lang.String: java.lang.String join(java.lang.CharSequence,java.lang.Iterable)": 26,
    "java.util.Arrays: java.util.stream.DoubleStream stream(double[])": 24,
    "java.util.Arrays: java.util.stream.IntStream stream(int[])": 24,
    "java.util.Arrays: java.util.stream.LongStream stream(long[])": 24,
    "java.util.Arrays: java.util.stream.Stream stream(java.lang.Object[])": 24,
    "java.util.Set: java.util.stream.Stream stream()": 24,
}
_WARNING = re.compile(
    r"Warning: (\S+): can't find (?:referenced|superclass or interface|enclosing) "
    r"(?:class (?P<class>\S+)|(?:method|field) '(?P<member>[^']+)' in (?:library|program) class (?P<owner>\S+))"
)


def newer_than(level: int, said: str) -> list[str]:
    """Of ProGuard's output (-ignorewarnings): `class uses thing`, for everything that no phone of that level has."""
    found = set()
    for line in re.findall(r"^Warning: \S+: can't find .*", said, re.MULTILINE):
        match = _WARNING.match(line)
        if match is None:
            found.add(line.removeprefix("Warning: "))
            continue
        name = match["class"] or f"{match['owner']}: {match['member']}"
        since = (_CLASSES if match["class"] else _MEMBERS).get(name)
        if since is None or since > level:
            found.add(f"{match[1]} uses {name}")
    return sorted(found)
