"""What a check looks at, it leaves as it is: a build without checks must do the same (native/base/check.h)."""

import re
from pathlib import Path

CHECK = re.compile(r"\bCAIRN_CHECK\s*\(")
# What a condition may not hold, since a build without checks leaves it out: ++, --, an assignment, or a call that acts.
ACTS = re.compile(
    r"\+\+|--|(?<![=!<>])=(?!=)"
    r"|\b(?:read|write|close|epoll_ctl|socketpair|mmap|munmap|exchange|swap|take|submit|configure|set_\w+"
    r"|open|attach|detach|boot|format_drive|posix_\w+"
    r"|emplace\w*|insert\w*|erase\w*|extract|push\w*|pop\w*|reset|clear|resize|reserve|assign|append)\s*\("
)


def code_of(text: str) -> list[str]:
    """Its lines without those that are blank or nothing but a comment."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("//")]


def conditions_of(code: list[str]) -> list[str]:
    """The first argument of every CAIRN_CHECK."""
    text = "\n".join(line for line in code if not line.startswith("#"))
    found = []
    for begin in CHECK.finditer(text):
        depth = 0
        for at in range(begin.end(), len(text)):
            if text[at] in "([{":
                depth += 1
            elif text[at] in ")]}":
                depth -= 1
            elif text[at] == "," and depth == 0:
                found.append(" ".join(text[begin.end() : at].split()))
                break
    return found


def test_a_condition_only_looks(root: Path, files: tuple[Path, ...]) -> None:
    acting = [
        f"{path}: {condition}"
        for path in files
        if path.parts[0] == "native" and path.suffix in (".cc", ".h")
        for condition in conditions_of(code_of((root / path).read_text(encoding="utf-8")))
        if ACTS.search(condition)
    ]
    assert not acting, (
        "a build without checks would leave these out; do it before and look at the result:\n" + "\n".join(acting)
    )


def test_the_rules_themselves() -> None:
    """A rule that cannot fail is no rule."""
    code = code_of(
        "// CAIRN_CHECK(never, counted)\n\n#define CAIRN_CHECK(condition, sentence)\n"
        'static_assert(sizeof(int) == 4);\n  CAIRN_CHECK(f(a, {b, c}) ==\n      d[0, 1], "told, (once");\n'
    )
    assert len(code) == 4
    assert conditions_of(code) == ["f(a, {b, c}) == d[0, 1]"]
    for looks in ("a <= b", "a != b && !c", "a->b == c.d()", "at >= read_bytes", "map.contains(x)", "a - -b > 0"):
        assert not ACTS.search(looks), looks
    for acts in ("++a > 0", "a = b", "a += b", "::read(fd, &x, 8) > 0", "map.erase(x) == 1", "set_tenants(t).ok()"):
        assert ACTS.search(acts), acts
