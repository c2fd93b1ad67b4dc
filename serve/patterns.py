"""Regular expressions in a client's schema: which are well formed, and what compiling one costs.

The grammar compiler unrolls counted repetitions and weighs every token of the vocabulary against
every state, so a dozen characters can keep it busy for minutes. A pattern is read here once, in
time linear in its length, and priced before the engine sees it. The prices are rough, and rather
too high than too low; they were measured with xgrammar 0.2.8 and 49,152 tokens.
"""

import string
from dataclasses import dataclass

MAX_PATTERN = 512
"""Characters."""
MAX_GROUPS = 16
"""Levels of nested groups."""
MAX_LOOPS = 3
"""Levels of nested repetitions, as in `((a+)+)+`."""
MAX_COUNT = 100_000
"""Of a counted repetition."""
UNROLLED = 128
"""Copies of one character up to which the compiler makes states of them; beyond, it counts."""
PER_STATE = 0.6
"""Centiseconds of CPU time for a state that most tokens are weighed against."""
PER_PAIR = 0.1
"""The same for a pair of states that one text can be in."""

# Sets of characters as bits: ASCII, and one bit for everything else.
OTHERS = 1 << 128
ANY = (OTHERS << 1) - 1


def _bits(characters: str) -> int:
    return sum({1 << min(ord(char), 128) for char in characters})


_DIGITS, _SPACES = _bits(string.digits), _bits(string.whitespace)
_WORDS = _bits(string.ascii_letters + string.digits + "_")
_SETS = {"d": _DIGITS, "s": _SPACES, "w": _WORDS} | {
    "D": ANY ^ _DIGITS,
    "S": ANY ^ _SPACES,
    "W": ANY ^ _WORDS,
}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_HEX = {"x": 2, "u": 4}
_COUNTS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def pattern_cost(pattern: str) -> float:
    """CPU time to compile a pattern, about, in centiseconds.

    Raises: ValueError, for what is not a regular expression, not one that an automaton can follow
    (look-around, back-references), or nested too deep.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern has over {MAX_PATTERN} characters")
    reader = _Reader(pattern)
    part = reader.alternatives(0)
    if reader.at < len(pattern):
        raise reader.error("an unmatched )")
    return PER_STATE * part.size + PER_PAIR * (part.pairs + part.flex**2 - part.own)


@dataclass(slots=True)
class _Part:
    """A piece of a pattern, or all of it."""

    characters: int
    """The set of those that it can consist of."""
    size: float = 0.0
    """Its states once unrolled, weighed by how much of the vocabulary they concern."""
    flex: float = 0.0
    """Those that one text can be in, together with what is flexible before and after."""
    own: float = 0.0
    """Of their pairs, those within one run of a character, which are no ambiguity."""
    pairs: float = 0.0
    """Pairs of states that are settled: a character in between can belong to neither side."""
    loops: int = 0
    """Levels of repetitions."""
    varies: bool = False
    """Whether its texts differ in length."""
    parted: bool = False
    """Whether a character in each of its texts settles what came before."""
    single: bool = False
    """Whether it is one character."""

    def settle(self) -> None:
        """What comes next is told apart from everything so far."""
        self.pairs += self.flex**2 - self.own
        self.flex = self.own = 0.0
        self.characters = 0


class _Reader:
    """Recursive descent over one pattern, a level for each group."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def error(self, problem: str) -> ValueError:
        return ValueError(f"a pattern is not usable: {problem} at character {self.at}")

    def alternatives(self, depth: int) -> _Part:
        if depth > MAX_GROUPS:
            raise self.error(f"groups nested over {MAX_GROUPS} levels")
        whole, characters, forked = _Part(0), 0, False
        while (char := self._peek()) not in ("", ")"):
            if char in "|^$":
                self.at += 1
                if char == "|":
                    whole.settle()
                    whole.varies = forked = True
                continue
            part = self._repeated(self._atom(depth))
            if part.single and not part.varies and not part.characters & whole.characters:
                whole.settle()
                whole.parted = True
            whole.characters |= part.characters
            characters |= part.characters
            whole.size += part.size
            whole.flex += part.flex
            whole.own += part.own
            whole.pairs += part.pairs
            whole.loops = max(whole.loops, part.loops)
            whole.varies |= part.varies
        whole.characters, whole.parted = characters, whole.parted and not forked
        return whole

    def _atom(self, depth: int) -> _Part:
        char = self._take()
        if char == "(":
            return self._group(depth)
        if char in "*+?{":
            raise self.error(f"nothing before {char}")
        if char == "[":
            characters = self._class()
        elif char == "\\":
            characters = self._escape()
        else:
            characters = ANY if char == "." else _bits(char)
        members = characters.bit_count() + 64 * bool(characters & OTHERS)
        weight = 0.2 if members <= 10 else 0.6 if members <= 72 else 1.0
        return _Part(characters, weight, single=True)

    def _group(self, depth: int) -> _Part:
        if self._peek() == "?":
            self.at += 1
            if self._peek() == "P":
                self.at += 1
            kind = self._take()
            if kind == "<" and self._peek() not in ("=", "!"):
                name = self.pattern[self.at :].partition(">")[0]
                if not name.isidentifier():
                    raise self.error("a group's name that is none")
                self.at += len(name) + 1
            elif kind != ":":
                raise self.error("look-around or a flag")
        inside = self.alternatives(depth + 1)
        if self._take() != ")":
            raise self.error("a group without its )")
        return inside

    def _class(self) -> int:
        negated = self._peek() == "^"
        if negated:
            self.at += 1
        if self._peek() == "]":
            raise self.error("an empty class")
        characters, last = 0, 0
        while (char := self._take()) != "]":
            if char == "":
                raise self.error("a class without its ]")
            if char == "-" and last and self._peek() not in ("]", ""):
                end = self._member(self._take())
                if end < last:
                    raise self.error("a range that runs backwards")
                characters |= (end << 1) - last  # every bit from the last one to this one
                last = 0
            else:
                last = self._member(char)
                characters |= last
        found = ANY ^ characters if negated else characters
        if not found & ANY:
            raise self.error("a class that matches nothing")
        return found

    def _member(self, char: str) -> int:
        return self._escape() if char == "\\" else _bits(char)

    def _escape(self) -> int:
        char = self._take()
        if char == "":
            raise self.error("a lone \\")
        if char in _SETS:
            return _SETS[char]
        if char in "123456789kbBpP":
            raise self.error("a back-reference, word boundary or Unicode property")
        if char == "u" and self._peek() == "{":
            digits = self.pattern[self.at + 1 :].partition("}")[0]
            self.at += len(digits) + 2
            return self._code(digits)
        if char in _HEX:
            digits = self.pattern[self.at : self.at + _HEX[char]]
            self.at += _HEX[char]
            return self._code(digits if len(digits) == _HEX[char] else "")
        return _bits(_CONTROLS.get(char, char))

    def _code(self, digits: str) -> int:
        if not digits or not set(digits) <= set(string.hexdigits) or int(digits, 16) > 0x10FFFF:
            raise self.error("an escape that is no character")
        return 1 << min(int(digits, 16), 128)

    def _repeated(self, part: _Part) -> _Part:
        while (char := self._peek()) and char in "*+?{":
            self.at += 1
            least, most = self._counts() if char == "{" else _COUNTS[char]
            if self._peek() in ("?", "+"):  # lazy or possessive: the same texts
                self.at += 1
            part = self._times(part, least, most)
        return part

    def _counts(self) -> tuple[int, int | None]:
        inside, brace, _ = self.pattern[self.at :].partition("}")
        least, comma, most = inside.partition(",")
        if not brace or not _number(least) or (most and not _number(most)):
            raise self.error("a repetition that is not {n}, {n,} or {n,m}")
        self.at += len(inside) + 1
        low = int(least)
        high = int(most) if most else None if comma else low
        if max(low, high or 0) > MAX_COUNT or (high is not None and high < low):
            raise self.error(f"a repetition that is over {MAX_COUNT} or runs backwards")
        return low, high

    def _times(self, part: _Part, least: int, most: int | None) -> _Part:
        copies = max(1, least if most is None else most)
        loops = part.loops + (copies > 1 or most is None)
        if loops > MAX_LOOPS:
            raise self.error(f"repetitions nested over {MAX_LOOPS} levels")
        varies = least != most
        repeated = _Part(part.characters, loops=loops, varies=varies or part.varies)
        if part.single:
            states = copies if copies <= UNROLLED else 10 + copies / 50
            repeated.size = part.size * states
            repeated.flex = varies * min(repeated.size, 10.0 if copies > UNROLLED else 128.0)
            repeated.own = repeated.flex**2
            repeated.flex *= 1 + 0.6 * (least == 0)
            return repeated
        repeated.size = part.size * copies
        again = copies > 1 or most is None
        if again and part.varies and not part.parted:
            repeated.flex = 2 * repeated.size
        elif again and part.varies:
            repeated.flex = 2 * part.flex
            repeated.pairs = copies * (part.pairs + repeated.flex**2)
        else:
            repeated.flex = part.flex + part.size * varies
            repeated.own, repeated.pairs = part.own, part.pairs * copies
        return repeated

    def _peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def _take(self) -> str:
        char = self._peek()
        self.at += 1
        return char


def _number(digits: str) -> bool:
    return digits.isascii() and digits.isdigit() and len(digits) <= 9
