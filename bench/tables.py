"""Numbers and tables as summary.py prints them."""
import math
import statistics


def number(x, digits=1):
    return "-" if x is None else f"{x:.{digits}f}"


def ratio(a, b):
    return a / b if a and b else None


def percent(x):
    if x is None:
        return "-"
    return "<1 %" if 0 < x < 0.01 else f"{100 * x:.0f} %"


def geometric_mean(values):
    return math.exp(statistics.fmean(math.log(v) for v in values)) if values else None


def best(values):
    return max((v for v in values if v), default=None)


def wrong_words(shares):
    """(who, the share of its outputs that were wrong) in words."""
    return ", ".join(f"{who.upper()} {percent(share)} WRONG" for who, share in shares if share) or "none"


class Printer:
    def __init__(self, markdown):
        self.markdown = markdown

    def heading(self, text):
        print(f"\n### {text}\n" if self.markdown else f"\n{text}")

    def text(self, line):
        print(line + ("  " if self.markdown else ""))

    def table(self, header, rows):
        """The first and the last column are words, the others numbers."""
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

        def line(row):
            cells = [c.rjust(w) for c, w in zip(row, widths)]
            cells[0], cells[-1] = row[0].ljust(widths[0]), row[-1].ljust(widths[-1])
            return "| " + " | ".join(cells) + " |" if self.markdown else "  " + "  ".join(cells).rstrip()

        print(line(header))
        if self.markdown:
            rules = ["-" * max(w, 3) for w in widths]
            print("| " + " | ".join([rules[0], *(r[:-1] + ":" for r in rules[1:-1]), rules[-1]]) + " |")
        for row in rows:
            print(line(row))
