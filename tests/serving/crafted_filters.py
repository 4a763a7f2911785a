"""Filters at random with the rows that they keep by SQL's three-valued logic, and hostile ones."""

import random
import re

LABELS = ("dog", "Cat", "it's", "größe 1", "50% off_", "", "鳥")
ROWS = [
    {
        "number": None if i % 7 == 3 else (i * 37) % 41 - 20,
        "ratio": None if i % 11 == 5 else round((i * 29 % 31) / 4 - 3, 2),
        "label": None if i % 5 == 4 else LABELS[i % 7],
        "flag": None if i % 13 == 6 else i % 3 == 0,
    }
    for i in range(60)
]
PATTERNS = ("%", "d_g", "%o%", "CAT", "größe%", "%\\%%", "%s", "_", "", "鳥", "%_'_")
NUMBERS = ("number", "ratio")


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def known(function, *values):
    return None if any(value is None for value in values) else function(*values)


def doubled(value, step):
    return known(lambda v: (v - step) * 2, value)


def negation(value):
    return known(lambda v: not v, value)


def both(a, b):
    if a is False or b is False:
        return False
    return None if a is None or b is None else True


def either(a, b):
    return negation(both(negation(a), negation(b)))


def matches(pattern, text, ignore_case):
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    regex = "".join({"%": ".*", "_": "."}.get(p, re.escape(p[-1])) for p in parts)
    return re.fullmatch(regex, text, re.DOTALL | (re.IGNORECASE if ignore_case else 0)) is not None


class Filters:
    """Random filters of the grammar; each is (text, function from a row to True, False or None)."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def one(self, depth=3):
        rules = [self.compared, self.listed, self.ranged, self.like, self.null, self.truth]
        if depth:
            rules += [self.joined, self.joined, self.negated, self.bracketed]
        return self.random.choice(rules)(depth - 1)

    def case(self, word):
        return self.random.choice([word, word.lower(), word.capitalize()])

    def joined(self, depth):
        parts = [self.one(max(depth, 0)) for _ in range(self.random.randint(2, 3))]
        word, rule = self.random.choice([("AND", both), ("OR", either)])

        def value(row):
            result = parts[0][1](row)
            for _, part in parts[1:]:
                result = rule(result, part(row))
            return result

        return f" {self.case(word)} ".join(f"({text})" for text, _ in parts), value

    def negated(self, depth):
        text, value = self.one(max(depth, 0))
        return f"{self.case('NOT')} ({text})", lambda row: negation(value(row))

    def bracketed(self, depth):
        text, value = self.one(max(depth, 0))
        return f"( {text})", value

    def number(self):
        name = self.random.choice(NUMBERS)
        step = self.random.choice([2, 3, 0.5])
        written = self.random.choice([name, name.upper(), f"`{name}`", f'"{name}"'])
        return self.random.choice(
            [
                (written, lambda row: row[name]),
                (f"abs({written})", lambda row: known(abs, row[name])),
                (f"- {written}", lambda row: known(lambda v: -v, row[name])),
                (f"({written} - {step}) * 2", lambda row: doubled(row[name], step)),
                (f"{written} - -{step}", lambda row: known(lambda v: v + step, row[name])),
            ]
        )

    def text(self):
        return self.random.choice(
            [
                ("label", lambda row: row["label"]),
                ("lower(label)", lambda row: known(str.lower, row["label"])),
                ("UPPER( Label )", lambda row: known(str.upper, row["label"])),
            ]
        )

    def any_number(self):
        return self.random.choice([self.random.randint(-20, 20), self.random.randint(-12, 12) / 4])

    def any_text(self):
        return self.random.choice([row["label"] or "x" for row in ROWS])

    def pair(self):
        """A value of a row, two literals of its type, and these as they are written."""
        if self.random.random() < 0.2:
            written, value = "length(label)", lambda row: known(len, row["label"])
        elif self.random.random() < 0.6:
            written, value = self.number()
        else:
            one, two = sorted([self.any_text(), self.any_text()])
            return *self.text(), (one, two), (quoted(one), quoted(two))
        one, two = sorted([self.any_number(), self.any_number()])
        return written, value, (one, two), (str(one), str(two))

    def compared(self, depth):
        written, value, (literal, _), (text, _) = self.pair()
        symbol, rule = self.random.choice(
            [
                ("=", lambda a, b: a == b),
                ("<>", lambda a, b: a != b),
                ("!=", lambda a, b: a != b),
                ("<", lambda a, b: a < b),
                ("<=", lambda a, b: a <= b),
                (">", lambda a, b: a > b),
                (">=", lambda a, b: a >= b),
            ]
        )
        if self.random.random() < 0.3:
            return f"{text}{symbol}{written}", lambda row: known(rule, literal, value(row))
        return f"{written} {symbol}{text}", lambda row: known(rule, value(row), literal)

    def listed(self, depth):
        written, value, literals, texts = self.pair()
        negated = self.random.random() < 0.5
        word = self.case("NOT") + " " + self.case("IN") if negated else self.case("IN")
        text = f"{written} {word} ({', '.join(texts)})"
        return text, lambda row: known(lambda v: (v in literals) != negated, value(row))

    def ranged(self, depth):
        written, value, (low, high), texts = self.pair()
        negated = self.random.random() < 0.5
        text = f"{written} {'NOT ' if negated else ''}BETWEEN {texts[0]} AND {texts[1]}"
        return text, lambda row: known(lambda v: (low <= v <= high) != negated, value(row))

    def like(self, depth):
        written, value = self.text()
        pattern = self.random.choice(PATTERNS)
        word = self.random.choice(["LIKE", "ILIKE"])
        negated = self.random.random() < 0.5
        text = f"{written} {'NOT ' if negated else ''}{self.case(word)} {quoted(pattern)}"
        return text, lambda row: known(
            lambda v: matches(pattern, v, word == "ILIKE") != negated, value(row)
        )

    def null(self, depth):
        name = self.random.choice([*NUMBERS, "label", "flag"])
        negated = self.random.random() < 0.5
        text = f"{name} {self.case('IS')} {'NOT ' if negated else ''}NULL"
        return text, lambda row: (row[name] is None) != negated

    def truth(self, depth):
        return self.random.choice(
            [
                ("flag", lambda row: row["flag"]),
                ("flag = true", lambda row: row["flag"]),
                ("FLAG <> True", lambda row: negation(row["flag"])),
                ("flag IS NOT TRUE", lambda row: row["flag"] is not True),
                ("true", lambda row: True),
            ]
        )


def hostile(seed, count):
    """Filters that are to be refused, or that do no harm: a fixed list, and damaged good ones."""
    draw = random.Random(seed)
    fixed = [
        "length(repeat(label, 20000000)) > 1",
        "repeat(label, 2000000000) = 'x'",
        "lpad(label, 2000000000, 'x') = ''",
        "number >= -99 -- ",
        "number >= -99) OR (true",
        "number >= -99) -- ",
        "number >= -99 /* ",
        "true) /* */ OR (true",
        "number = 1; DROP TABLE rows",
        "label = 'a' UNION SELECT * FROM rows",
        "label = (SELECT label FROM rows)",
        "CASE WHEN true THEN true END",
        "label || label || label = 'x'",
        "'" * 1001,
        "'" * 1000,
        "(" * 5000,
        ")" * 5000,
        "(" * 4000 + "true" + ")" * 4000,
        "NOT " * 2400 + "true",
        "- " * 4000 + "number > 1",
        "-" * 8000,
        "number" + " + 1" * 2400 + " > 5",
        "lower(" * 1400 + "label",
        "abs(" * 1400 + "number" + ")" * 1400 + " = 1",
        "true" + " AND true" * 1000,
        "true" + " OR number = 1" * 700,
        "number IN (" + ", ".join(map(str, range(2000))) + ")",
        "label LIKE '" + "%_" * 4900 + "'",
        "label LIKE '" + "%a" * 16 + "'",
        "label LIKE '" + "a" * 9000 + "'",
        "label ILIKE '" + "ß" * 9000 + "'",
        "x" * 9999 + " = 1",
        "x" * 10_001,
        "9" * 4500 + " > number",
        "1e99999 > number",
        "1e308 * 10 > number",
        "number / 0 = 1",
        "number % 0 = 1",
        "number * 9223372036854775807 > 1",
        "abs(-9223372036854775807 - 1) > number",
        "number = NULL",
        "label = 'a\x00b'",
        "label = '\u202egod'",
        "label = “dog”",
        "nu\u0308mber = 1",
        "label\u00a0=\u00a0'x'",
        "ｎumber ＝ 1",
        "label = '\ufffd\ufffe'",
        "embedding IS NULL",
        "thumbnail IS NOT NULL",
        "_rowid > 0",
        "flag::int = 1",
        "cast(label as int) = 1",
        "label ~ '.*'",
        "regexp_like(label, '(a+)+$')",
        "label SIMILAR TO '(a+)+'",
        "\ud800 = 1",
        "{{7*7}}",
        "${jndi:ldap://x}",
        "../../etc/passwd",
        "number IN ()",
        "number IN (NULL)",
        "number NOT IN",
        "IS NULL",
        "label LIKE label",
        "''",
        "=",
        "`",
        "``",
        '""',
        "number BETWEEN 1",
        "number BETWEEN 1 OR 2",
        "id IN ('1') OR input = 'text'",
        "1 < number < 5",
        "(number > 1) = (number > 2)",
    ]
    letters = "'\"`()-/*;=<>%_\\ \n\tabAND OR NOT0123456789.,éß中\U0001f600\u0301\u200b\x00"
    found = list(fixed)
    good = Filters(seed)
    while len(found) < count:
        text, _ = good.one(4)
        place = draw.randrange(len(text) + 1)
        noise = "".join(draw.choices(letters, k=draw.randint(1, 12)))
        damaged = [
            text[:place] + noise + text[place:],
            text[:place],
            text[place:],
            text + " -- ",
            f"{text}) OR (true",
            "".join(draw.choices(letters, k=draw.randint(1, 400))),
            text.replace("(", "", 1),
            text.replace("'", "", 1) + "'",
        ]
        found.append(draw.choice(damaged))
    return found[:count]
