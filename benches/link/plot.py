"""Small multiples as SVG: above seconds for a page, below the rate of a download; a column for each round trip, a line for each protocol."""

import math

COLOURS = {"h1": "#8a8f98", "h2": "#d97706", "h3": "#2563eb", "tunnel": "#059669"}
# Told apart without colours, too.
DASHES = {"h1": "2 3", "h2": "7 3", "h3": "", "tunnel": "10 3 2 3"}
WIDTH, HEIGHT, LEFT, TOP, GAP = 230, 190, 56, 64, 34


def ticks(low, high):
    """Of a logarithmic scale: 1, 2 and 5 times each power of ten."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]


def draw(over, rtts, losses, pages, downloads):
    parts = []
    rows = [("page of 100 objects: seconds (less is better)", pages), ("download: Mbit/s (more is better)", downloads)]
    for row, (title, cells) in enumerate(rows):
        values = [value for value in cells.values() if value]
        low, high = min(values) * 0.8, max(values) * 1.25
        top = TOP + row * (HEIGHT + 76)
        parts.append(f'<text x="{LEFT}" y="{top - 24}" class="title">{title}</text>')
        for column, rtt in enumerate(rtts):
            left = LEFT + column * (WIDTH + GAP)
            panel(parts, left, top, f"round trip {rtt} ms", low, high, losses, column == 0)
            for name in over:
                at = [(loss, cells.get((name, rtt, loss))) for loss in losses]
                points = [(x_of(left, losses, loss), y_of(top, low, high, value)) for loss, value in at if value]
                line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
                parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}" stroke-width="2" stroke-dasharray="{DASHES[name]}"/>')
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[name]}"/>' for x, y in points]
    bottom = TOP + 2 * HEIGHT + 76 + 44
    width = LEFT + len(rtts) * (WIDTH + GAP)
    for at, (name, words) in enumerate(over.items()):
        x = LEFT + at * 185
        parts.append(f'<line x1="{x}" y1="{bottom}" x2="{x + 28}" y2="{bottom}" stroke="{COLOURS[name]}" stroke-width="2" stroke-dasharray="{DASHES[name]}"/>')
        parts.append(f'<text x="{x + 34}" y="{bottom + 4}">{words}</text>')
    style = "text{font:12px system-ui,sans-serif;fill:#6b7280}.title{font-weight:600;font-size:13px}.grid{stroke:#9ca3af;stroke-opacity:.35}"
    size = f'viewBox="0 0 {max(width, LEFT + 4 * 185)} {bottom + 20}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><style>{style}</style>\n' + "\n".join(parts) + "\n</svg>\n"


def panel(parts, left, top, title, low, high, losses, labelled):
    parts.append(f'<text x="{left}" y="{top - 8}">{title}</text>')
    for value in ticks(low, high):
        y = y_of(top, low, high, value)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + WIDTH}" y2="{y:.1f}" class="grid"/>')
        if labelled:
            parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for loss in losses:
        parts.append(f'<text x="{x_of(left, losses, loss):.1f}" y="{top + HEIGHT + 18}" text-anchor="middle">{loss:g} %</text>')


def x_of(left, losses, loss):
    """Losses stand at equal distances, in their order."""
    return left + 14 + losses.index(loss) * (WIDTH - 28) / max(1, len(losses) - 1)


def y_of(top, low, high, value):
    return top + HEIGHT * (1 - (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)))
