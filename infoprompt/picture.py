"""A picture that harms nothing: its text is drawn as it stands, and one that cannot be drawn is a warning."""

import logging
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text

log = logging.getLogger(__name__)

MOST_CHARACTERS = 40
DOTS_PER_INCH = 150

OTHER_SCRIPTS: tuple[str, ...] = (
    *("Noto Sans CJK", "Noto Sans", "Noto Emoji", "Source Han Sans", "WenQuanYi", "IPAGothic", "Nanum", "Symbola"),
    *("Unifont", "Arial Unicode", "PingFang", "Hiragino", "Microsoft YaHei", "Malgun", "Meiryo"),
)
"""Beginnings of the names of fonts that hold what the usual one lacks."""


class Picture(Figure):
    """A figure whose text is never mathematics, and is drawn with any installed font that has its characters."""

    def draw(self, renderer: RendererBase) -> None:
        """Draw everything; a character that no font has becomes a box, without a warning."""
        for text in self.findobj(Text):
            assert isinstance(text, Text)
            text.set_parse_math(False)
            text.set_usetex(False)
            if not text.get_text().isascii():
                text.set_text(text.get_text().encode(errors="replace").decode())  # half a pair of UTF-16 has no shape
                text.set_fontfamily([*text.get_fontfamily(), *_other_fonts()])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph \d+|Matplotlib currently does not support")
            super().draw(renderer)


def shown(name: str, most: int = MOST_CHARACTERS) -> str:
    """A name on one line, without what has no shape, and without its middle where it is long."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split()) or repr(name)
    if len(plain) > most:
        plain = f"{plain[: most // 2]}…{plain[-(most // 2 - 1) :]}"  # names differ at both ends
    return f" {plain}" if plain.startswith("_") else plain  # matplotlib leaves out of a legend what begins with it


def save_picture(name: str, path: Path, draw: Callable[[], Figure]) -> bool:
    """Draw a picture and write it as PNG; if that fails, for whatever reason, say so and go on.

    Args:
        name: what the warning calls it.
        path: the file; its folder is made.
        draw: makes the figure.
    Returns:
        Whether the file is there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw().savefig(path, dpi=DOTS_PER_INCH, format="png")
    except Exception as error:  # a picture is worth no result
        path.unlink(missing_ok=True)
        reason = str(error).partition("\n")[0]
        log.warning("The picture %s could not be drawn (%s: %s). All else is kept.", name, type(error).__name__, reason)
        return False
    return True


@cache
def _other_fonts() -> list[str]:
    # colour fonts are bitmaps, which matplotlib cannot load
    names = {font.name for font in font_manager.fontManager.ttflist if "Color" not in font.name}
    return [name for start in OTHER_SCRIPTS for name in sorted(names) if name.startswith(start)][:20]
