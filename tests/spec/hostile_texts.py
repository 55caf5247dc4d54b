"""Texts that nobody means well with, by name: what costs a reader most, at the size limit and below.

``LIMITED`` break a limit or use what the loader refuses: they must be refused inside the scanner. ``FAULTY``
are read, and wrong; ``LARGE`` are in order or nearly so, and as large as a file may be.
"""

from bus.spec.loader import MAX_BYTES

HEAD = "language: 1\nprotocol: p\nversion: 1.0.0\n"
TWO = "roles: {a: {}, b: {}}\n"
THREE = "roles: {a: {}, b: {}, c: {}}\n"


def filled(piece: str, *, head: str = "", size: int = MAX_BYTES - 4096) -> str:
    """Return *head* and as many *piece*s as fit *size* bytes; ``%d`` in a piece is its number."""
    room = size - len(head)
    if "%d" not in piece:
        return head + piece * (room // len(piece.encode()))
    return head + "".join(piece.replace("%d", str(number)) for number in range(room // (len(piece) + 3)))


def steps(lines: list[str], messages: list[str], *, roles: str = TWO) -> str:
    """Return a whole protocol of these step lines."""
    declared = "".join(f"  {message}: {{}}\n" for message in messages)
    return HEAD + roles + "messages:\n" + declared + "conversation:\n" + "".join(f"  {line}\n" for line in lines)


def numbered(count: int) -> list[str]:
    """Return that many message names."""
    return [f"M{number}" for number in range(count)]


def parallel(n_branches: int, *, pairs: bool = False) -> str:
    """Return a protocol with so many branches side by side, of one message or of a question and its answer each."""
    names = numbered(2 * n_branches)
    branches = [
        f"    x{number}: [a -> b: {names[2 * number]}" + (f", b -> a: {names[2 * number + 1]}]" if pairs else "]")
        for number in range(n_branches)
    ]
    used = names if pairs else names[::2]
    return steps(["- parallel:", *branches], used)


def choice(n_branches: int, tail: str = "") -> str:
    """Return a protocol with a choice of so many branches."""
    names = numbered(n_branches)
    return steps(
        ["- choice: a", "  branches:", *(f"    x{n}: [a -> b: {one}{tail}]" for n, one in enumerate(names))], names
    )


def row(count: int, *, roles: str = TWO, last: str = "b -> a") -> str:
    """Return a protocol of so many messages, one after another, the last by somebody else."""
    names = numbered(count)
    return steps([*(f"- a -> b: {one}" for one in names[:-1]), f"- {last}: {names[-1]}"], names, roles=roles)


_BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(letter)}: &{chr(letter)} [*{chr(letter - 1)}, *{chr(letter - 1)}]\n" for letter in range(98, 123)
)

LIMITED = {
    "one MiB of a": "a" * (1 << 20),
    "one MiB of brackets": "[" * (1 << 20),
    "one MiB of é": "é" * (1 << 19),
    "one MiB of line ends": "\n" * (1 << 20),
    "40,000 [": "[" * 40_000,
    "40,000 {": "{" * 40_000,
    "40,000 [{": "[{" * 20_000,
    "40,000 {a: ": "{a: " * 40_000,
    "40,000 - ": "- " * 40_000,
    "40,000 ? ": "? " * 40_000,
    "indented maps": "".join(" " * depth + "a:\n" for depth in range(700)),
    "indented lists": "".join(" " * depth + "-\n" for depth in range(700)),
    "brackets as a key": "[" * 31 + "a" * 900 + "\n",
    "alias bomb": _BOMB,
    "anchors": filled("a%d: &x b\n"),
    "aliases": filled("- *x\n"),
    "anchors in flow": "[" + filled("&x b, "),
    "anchors as keys": filled("&x b%d: c\n"),
    "long anchor": "a: &" + "x" * 250_000 + " b\n",
    "long alias": "a: *" + "x" * 250_000 + "\n",
    "tags": filled("a%d: !x b\n"),
    "tags in flow": "[" + filled("!x b, "),
    "long tag": "a: !" + "x" * 250_000 + " b\n",
    "verbatim tag": "a: !<" + "x" * 250_000 + "> b\n",
    "tag of escapes": "a: !" + "%41" * 80_000 + " b\n",
    "python object": "a: !!python/object/apply:os.system ['true']\n",
    "tag directives": filled("%TAG !a%d! tag:x,2000:\n"),
    "long directive": "%" + "x" * 250_000 + "\n---\na: 1\n",
    "yaml directive": "%YAML 1." + "1" * 200_000 + "\n---\na: 1\n",
    "NUL": "a: b\n" * 40_000 + "\0",
    "bell": "a: \x07\n",
    "half surrogate": "a: \ud800\n",
}  # fmt: skip

FAULTY = {
    "merge keys": filled("<<: {a: 1}\n"),
    "merge keys in maps": filled("a%d: {<<: {a: 1}}\n"),
    "duplicate keys": filled("a: 1\n"),
    "duplicate keys in flow": "{" + filled("a: 1, ") + "}",
    "complex keys": filled("? [a]\n: b\n"),
    "numbers as keys": filled("%d: a\n"),
    "documents": filled("--- a\n"),
    "document ends": filled("...\n"),
    "tabs": filled("\ta: 1\n"),
    "tabs behind": filled("a%d:\t1\t\n"),
    "commas": "[" + filled(",") + "]",
    "colons": filled(": "),
    "colons in flow": "{" + filled(": , ") + "}",
    "dashes in flow": "[" + filled("- ") + "]",
    "questions in flow": "{" + filled("? ") + "}",
    "quotes": filled("'"),
    "double quotes": filled('"'),
    "long key": "a" * 250_000 + ": 1\n",
    "long quoted key": '"' + "a" * 250_000 + '": 1\n',
    "long flow key": "{" + "a" * 250_000 + ": 1}\n",
    "many long keys": filled("a" * 1000 + "%d: 1\n"),
    "many flow keys": "{" + filled("a" * 1000 + "%d: 1, ") + "}",
    "lines in a flow key": "{" + filled("a\n") + ": 1}",
    "flow of flow keys": "[" * 30 + filled("a: b, "),
    "empty flow maps": "[" + filled("{}, ") + "]",
    "empty flow pairs": "[" + filled("[a]: b, ") + "]",
    "flow": "a: [" + filled("x, ") + "]",
    "escapes": '"' + filled("\\x41") + '"',
    "wrong escape": '"' + "\\U00110000" + '"',
    "escaped line ends": '"' + filled("\\\n") + '"',
    "open quotes": '"' + filled("a "),
    "open quotes over lines": '"' + filled("a\n"),
    "blank lines in quotes": '"' + filled("\n") + '"',
    "block scalar": "a: |\n" + filled(" x\n"),
    "folded scalar": "a: >\n" + filled(" x\n"),
    "blank lines in a block": "a: |\n" + filled("\n") + " x\n",
    "spaces in a block": "a: |\n" + filled(" "),
    "block scalar header": "a: |" + filled("9"),
    "long plain": "a: " + filled("x"),
    "long plain of words": "a: " + filled("x "),
    "long plain of lines": "a: " + filled("x\n  "),
    "hashes": "a: " + filled("x#"),
    "comments": filled("# a\n"),
    "comments behind": filled("a%d: 1 # b\n"),
    "spaces": filled(" "),
    "line ends": filled("\n"),
    "CRLF": filled("a%d: 1\r\n"),
    "NEL": filled("a%d: 1\u0085"),
    "line separators": filled("a%d: 1\u2028"),
    "paragraph separators": filled("a%d: 1\u2029"),
    "byte order marks": filled("\ufeff"),
    "byte order marks behind": filled("a: \ufeff"),
    "emoji": "a: " + filled("\U0001f600"),
    "combining": "a: " + filled("e\u0301"),
    "huge int": "a: " + "9" * 250_000,
    "huge ints": filled("a%d: 99999999999999999999999999999999999999\n"),
    "huge hex": "a: 0x" + "f" * 250_000,
    "huge float": "a: 1e" + "9" * 250_000,
    "dots": "a: " + filled("."),
    "escaped surrogates": filled('- "\\ud800"\n'),
    "percent": filled("% "),
    "ats": filled("@ "),
    "backquotes": filled("`"),
    "pipes": filled("| "),
    "unknown top keys": filled("a%d: 1\n"),
    "unknown roles": steps([f"- x{n} -> y{n}: M" for n in range(8000)], ["M"]),
    "unknown messages": steps([f"- a -> b: N{n}" for n in range(5000)], numbered(8000)),
    "unknown types": HEAD + TWO + "messages:\n" + "".join(f"  M{n}: {{fields: {{x: T{n}}}}}\n" for n in range(5000))
    + "conversation: [a -> b: M0]\n",
    "unknown field types": HEAD + TWO + "types:\n" + "".join(f"  T{n}: {{fields: {{x: int}}}}\n" for n in range(4000))
    + "messages:\n" + "".join(f"  M{n}: {{fields: {{x: Tx{n}}}}}\n" for n in range(3000)) + "conversation: [a -> b: M0]\n",
    "unknown steps": HEAD + TWO + "messages: {M: {}}\nconversation:\n" + "- choise: a\n" * 12_000,
    "wrong arrows": HEAD + TWO + "messages: {M: {}}\nconversation:\n" + "- a->b: M\n" * 12_000,
    "bad field names": HEAD + TWO + "messages: {M: {fields: {" + ", ".join(f"X{n}: int" for n in range(15_000))
    + "}}}\nconversation: [a -> b: M]\n",
    "unknown outcomes": steps(["- loop: l", "  do:", "    - a -> b: M", "    - choice: b", "      branches:",
        *(f"        x{n}: [b -> a: N{n}, end: o{n}]" for n in range(3000))], ["M", *(f"N{n}" for n in range(3000))]),
    "many roles": HEAD + "roles:\n" + "".join(f"  r{n}: {{}}\n" for n in range(20_000)) + "messages: {M: {}}\nconversation: [r0 -> r1: M]\n",
    "deep receivers": HEAD + TWO + "messages: {M: {}}\nconversation: [{'a -> " + ", ".join(f"b{n}" for n in range(30_000)) + "': M}]\n",
    "same receivers": HEAD + TWO + "messages: {M: {}}\nconversation: [{'a -> " + ", ".join(["b"] * 60_000) + "': M}]\n",
    "many rules": HEAD + TWO + "messages: {M: {fields: {x: int}, rules: [" + ", ".join(["'x > 1 and y > 2'"] * 10_000) + "]}}\nconversation: [a -> b: M]\n",
    "large rules": HEAD + TWO + "messages: {M: {fields: {x: int}, rules: [" + ", ".join(["'" + "x + " * 120 + "x > 1'"] * 500) + "]}}\nconversation: [a -> b: M]\n",
    "deep rules": HEAD + TWO + "messages: {M: {fields: {x: int}, rules: [" + ", ".join(["'" + "(" * 240 + "x" + ")" * 240 + "'"] * 500) + "]}}\nconversation: [a -> b: M]\n",
    "power rules": HEAD + TWO + "messages: {M: {fields: {x: int}, rules: ['9**9**9**9 > x']}}\nconversation: [a -> b: M]\n",
    "recursive types": HEAD + TWO + "types:\n" + "".join(f"  T{n}: {{fields: {{x: T{n + 1}}}}}\n" for n in range(5000))
    + "  T5000: {fields: {x: T0}}\nmessages: {M: {fields: {x: T0}}}\nconversation: [a -> b: M]\n",
    "deep types": HEAD + TWO + "types:\n" + "".join(f"  T{n}: {{fields: {{x: T{n + 1}}}}}\n" for n in range(5000))
    + "  T5000: {fields: {x: int}}\nmessages: {M: {fields: {x: T0}}}\nconversation: [a -> b: M]\n",
    "patterns": HEAD + TWO + "messages: {M: {fields: {" + ", ".join(f"x{n}: {{type: string, pattern: '(a|b|ab)*(bc)+[z'}}" for n in range(2000))
    + "}}}\nconversation: [a -> b: M]\n",
    "exploding patterns": HEAD + TWO + "messages: {M: {fields: {x: {type: string, pattern: '^(a+)+$', default: '" + "a" * 30_000 + "!'}}}}\nconversation: [a -> b: M]\n",
    "repeated patterns": HEAD + TWO + "messages: {M: {fields: {x: {type: string, pattern: '((((a{1000}){1000}){1000}){1000})', default: a}}}}\nconversation: [a -> b: M]\n",
    "unused messages": steps(["- a -> b: M0"], numbered(8000)),
    "unused types": HEAD + TWO + "types:\n" + "".join(f"  T{n}: {{fields: {{x: int}}}}\n" for n in range(6000)) + "messages: {M: {}}\nconversation: [a -> b: M]\n",
    "choice by others": choice(4000).replace("[a -> b", "[b -> a"),
    "same branches": choice(4000).replace(": M", ": M0 #"),
    "unreachable": steps(["- a -> b: M", "- end: failed", *["- a -> b: M"] * 12_000], ["M"]),
    "breaks": steps(["- break"] * 20_000, ["M"]),
    "16 parallel branches": parallel(16),
    "16 parallel pairs": parallel(16, pairs=True),
    "200 parallel branches": parallel(200),
    "2,000 parallel branches": parallel(2_000),
    "parallels in parallels": steps(["- parallel:", *(f"    x{n}: [{{parallel: {{y: [a -> b: M{2 * n}], z: [a -> b: M{2 * n + 1}]}}}}]" for n in range(8))], numbered(16)),
    "races": steps(["- a -> b: M0*", "  max: 3", *(f"- b -> a: M{n}*" for n in range(1, 60))], numbered(60)),
    "streams": steps([f"- a -> b: M{n}*" for n in range(300)], numbered(300)),
    "choices in a row": steps([line for n in range(400) for line in (
        "- choice: a", f"  branches: {{x: [a -> b: M{n}], y: []}}")], numbered(400)),
    "unaware third": steps([line for n in range(300) for line in (
        "- choice: a", f"  branches: {{x: [a -> b: X{n}, c -> b: Z{n}], y: [a -> b: Y{n}]}}")],
        [f"{letter}{n}" for n in range(300) for letter in "XYZ"], roles=THREE),
    "late third": row(8000, roles=THREE, last="c -> a"),
}  # fmt: skip

LARGE = {
    "a row of 8,000 messages": row(8000),
    "a row of 400 messages and a listener": row(400, roles=THREE, last="b -> a, c"),
    "a choice of 5,000 branches": choice(5000),
    "a loop around 3,000 branches": steps(["- loop: l", "  do:", "  - choice: a", "    branches:",
        *(f"      x{n}: [a -> b: M{n}, b -> a: N]" for n in range(3000)), "      stop: [a -> b: N, break: l]"],
        [*numbered(3000), "N"]),
    "6 parallel pairs": parallel(6, pairs=True),
    "8 parallel pairs": parallel(8, pairs=True),
    "14 parallel branches": parallel(14),
    "3,000 fields": HEAD + TWO + "messages: {M: {fields: {" + ", ".join(f"x{n}: {{type: int, default: 1}}" for n in range(3000)) + "}}}\nconversation: [a -> b: M]\n",
    "2,000 types": HEAD + TWO + "types:\n" + "".join(f"  T{n}: {{fields: {{x: int}}}}\n" for n in range(2000)) + "messages: {M: {fields: {"
    + ", ".join(f"x{n}: list of T{n}" for n in range(2000)) + "}}}\nconversation: [a -> b: M]\n",
}  # fmt: skip
