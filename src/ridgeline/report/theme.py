"""Theme: the colours of figures and page, light and dark, under one set of names.

Figures are drawn in the light colours, so a figure stands alone in a notebook. The page swaps every light
colour for its dark twin when the reader's system asks for it; so no colour may appear under two names.
"""

from __future__ import annotations

from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f6f7f8",
    "ink": "#1b1f24",
    "muted": "#5b626b",
    "grid": "#e6e8eb",
    "line": "#c4c9cf",
    "blue": "#2b6cb0",
    "orange": "#cf7217",
    "green": "#2f855a",
    "purple": "#7556b3",
    "red": "#c53030",
    "teal": "#178a94",
    "gold": "#a98307",
    "pink": "#b4508c",
    "grey": "#868e97",
}
DARK = {
    "paper": "#14171a",
    "panel": "#1c2024",
    "ink": "#e4e7ea",
    "muted": "#9aa2ab",
    "grid": "#272c31",
    "line": "#454c54",
    "blue": "#63a4e6",
    "orange": "#eb9a4a",
    "green": "#5fb98a",
    "purple": "#a78be0",
    "red": "#f07878",
    "teal": "#4fbcc6",
    "gold": "#d4b13f",
    "pink": "#df85b9",
    "grey": "#7d858e",
}
#: Order in which names without a colour of their own take one.
CYCLE = ("blue", "orange", "green", "purple", "teal", "gold", "pink", "red", "grey")


def colour(name: str) -> str:
    """The light colour of that name."""
    return LIGHT[name]


def cycle(index: int) -> str:
    """The light colour at that place of the cycle."""
    return LIGHT[CYCLE[index % len(CYCLE)]]


def twins() -> dict[str, str]:
    """Light colour -> dark colour, for the page's script."""
    return {LIGHT[name]: DARK[name] for name in LIGHT}


def css_variables(colours: dict[str, str]) -> str:
    """The colours as CSS custom properties."""
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


def axis(title: str, **changes: Any) -> dict[str, Any]:
    """An axis in the house style."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 12, "color": LIGHT["muted"]}},
        "gridcolor": LIGHT["grid"],
        "linecolor": LIGHT["line"],
        "tickcolor": LIGHT["line"],
        "tickfont": {"size": 12, "color": LIGHT["muted"]},
        "zeroline": False,
        "automargin": True,
        **changes,
    }


def layout(height: int, **changes: Any) -> dict[str, Any]:
    """A figure layout in the house style; ``changes`` are laid over it."""
    return {
        "height": height,
        "margin": {"l": 8, "r": 16, "t": 8, "b": 8},
        "paper_bgcolor": LIGHT["paper"],
        "plot_bgcolor": LIGHT["paper"],
        "font": {"family": FONT, "size": 13, "color": LIGHT["ink"]},
        "hoverlabel": {
            "bgcolor": LIGHT["panel"],
            "bordercolor": LIGHT["line"],
            "font": {"color": LIGHT["ink"], "size": 13},
            "align": "left",
            "namelength": -1,
        },
        "hovermode": "closest",
        "modebar": {"bgcolor": LIGHT["paper"], "color": LIGHT["line"], "activecolor": LIGHT["ink"]},
        "legend": {
            "orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
            "font": {"size": 12, "color": LIGHT["ink"]}, "traceorder": "normal", "itemsizing": "constant",
        },
        "dragmode": "zoom",
        **changes,
    }  # fmt: skip
