"""One labelled picture: a surface, perhaps with a defect, its exact mask and a caption."""

import re
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flawsmith.drawing.defects import DEFECTS, SIZES, Defect, draw_defect, random_defect
from flawsmith.drawing.noise import FloatArray
from flawsmith.drawing.surfaces import Surface, draw_surface, random_surface

ByteArray: TypeAlias = npt.NDArray[np.uint8]

# What texts call each kind besides its own name; captions use the first, the plural, and the second, the adjective.
_WORDS: dict[str, tuple[str, ...]] = {
    "scratch": ("scratches", "scratched", "scratching"),
    "crack": ("cracks", "cracked", "cracking"),
    "hole": ("holes", "broken"),
    "pit": ("pits", "pitted", "pitting"),
    "stain": ("stains", "stained", "staining"),
    "dent": ("dents", "dented", "denting"),
    "chip": ("chips", "chipped", "chipping"),
}


# Kinds whose defects are lines, so that they have a direction.
DIRECTED: tuple[str, ...] = ("scratch", "crack")


@dataclass(frozen=True)
class Drawing:
    """A drawn picture.

    Attributes:
        image: uint8, height x width x 3, RGB.
        mask: uint8, height x width, 255 on the defect and 0 elsewhere (all 0 without a defect).
        caption: the picture in words, from the parameters that it was drawn with.
        surface: the surface's parameters.
        defect: the defect's parameters, or None.
    """

    image: ByteArray
    mask: ByteArray
    caption: str
    surface: Surface
    defect: Defect | None


def to_bytes(image: FloatArray) -> ByteArray:
    """float32 in [0, 1] to uint8 in [0, 255], rounded."""
    return np.round(image * 255).astype(np.uint8)


def draw(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    surface: str | Surface | None = None,
    defect: str | Defect | None = None,
) -> Drawing:
    """Draws one picture; what is not given is drawn at random.

    The surface and the defect have random streams of their own: from the same generator state, a picture with a
    defect equals the one with "none" in every pixel outside its mask, as long as `surface` is the same.

    Args:
        surface: one of SURFACES, or all of its parameters.
        defect: one of DEFECTS ("none" for a good part), or all of its parameters.
    """
    if isinstance(defect, str) and defect not in DEFECTS:
        raise ValueError(f"unknown defect {defect!r}, expected one of {', '.join(DEFECTS)}")
    surface_rng, defect_rng, caption_rng = (np.random.default_rng(seed) for seed in rng.integers(0, 2**63, 3))
    chosen_surface = surface if isinstance(surface, Surface) else random_surface(surface_rng, surface)
    image = draw_surface(chosen_surface, surface_rng, height, width)
    mask = np.zeros((height, width), dtype=np.bool_)
    kind = defect if defect is not None else str(defect_rng.choice(DEFECTS))
    chosen_defect: Defect | None = None
    if isinstance(kind, Defect):
        chosen_defect = kind
    elif kind != "none":
        chosen_defect = random_defect(defect_rng, kind)
    if chosen_defect is not None:
        image, mask = draw_defect(image, chosen_defect, defect_rng)
    return Drawing(
        image=to_bytes(image),
        mask=mask.astype(np.uint8) * np.uint8(255),
        caption=caption(chosen_surface, chosen_defect, caption_rng),
        surface=chosen_surface,
        defect=chosen_defect,
    )


# From this size on, as a part of the image's short side, a defect is called long or large: its range's middle.
_LARGE = {kind: sum(SIZES[kind]) / 2 for kind in SIZES}
_FAINT, _SEVERE = 0.68, 0.87


def kinds_named(text: str) -> tuple[str, ...]:
    """Kinds of defect that an English text names as captions do ("crack", "dents", "scratched"), in DEFECTS' order."""
    words = set(re.findall("[a-z]+", text.lower()))
    return tuple(kind for kind, others in _WORDS.items() if words & {kind, *others})


def direction_named(text: str) -> str:
    """The direction that an English text names as captions do (see `direction_word`), the first if several; empty where
    it names none."""
    found = re.search(r"\b(horizontal|vertical|diagonal)\b", text.lower())
    return found[1] if found else ""


def defect_prompts(subject: str, kind: str) -> tuple[str, str]:
    """Two ways to ask for a kind of defect on a subject: "wood cracked", "wood with a crack"."""
    return f"{subject} {_WORDS[kind][1]}", f"{subject} with a {kind}"


def direction_word(defect: Defect | None) -> str:
    """`horizontal`, `vertical` or `diagonal` for scratches and cracks, empty for what has no direction."""
    if defect is None or defect.kind not in DIRECTED:
        return ""
    from_horizontal = abs((defect.direction + np.pi / 2) % np.pi - np.pi / 2)
    if from_horizontal < np.pi / 8:
        return "horizontal"
    return "vertical" if from_horizontal > 3 * np.pi / 8 else "diagonal"


def size_word(defect: Defect) -> str:
    """`long` or `short` for scratches and cracks, `large` or `small` for the rest."""
    big, little = ("long", "short") if defect.kind in DIRECTED else ("large", "small")
    return big if defect.size > _LARGE[defect.kind] else little


def severity_word(defect: Defect) -> str:
    """`faint` or `severe`; empty in between."""
    if defect.severity < _FAINT:
        return "faint"
    return "severe" if defect.severity > _SEVERE else ""


def caption(surface: Surface, defect: Defect | None, rng: np.random.Generator) -> str:
    """The picture in words: how people prompt for a surface differs, so there are several ways to say it."""
    place = f"{surface.color} {surface.kind}" if rng.random() < 0.7 else surface.kind
    noun = str(rng.choice(["surface", "background", "texture", "part"]))
    if defect is None:
        good = str(rng.choice(["clean", "flawless", "good", "smooth"]))
        return str(
            rng.choice(
                [
                    f"{good} {place} {noun}",
                    f"{place} {noun}",
                    f"{place} {noun} without defect",
                    f"a photo of a {good} {place} {noun}",
                    place,
                ]
            )
        )
    words = [defect.kind]
    # Dark chips and bright ones are two things to see: a model that is not told which draws something of both.
    two_toned = defect.kind == "chip"
    if two_toned or rng.random() < 0.7:
        words.insert(0, defect.tone)
    if (direction := direction_word(defect)) and rng.random() < 0.5:
        words.insert(0, direction)
    if rng.random() < 0.35:
        words.insert(0, size_word(defect))
    if (severity := severity_word(defect)) and rng.random() < 0.35:
        words.insert(0, severity)
    described = " ".join(word for word in words if word)
    plural, adjective = _WORDS[defect.kind][:2]
    ways = [
        f"{described} on a {place} {noun}",
        f"{place} {noun} with a {described}",
        f"a photo of a {place} {noun} with a {described}",
        f"{place}, {described}",
    ]
    if not two_toned:
        ways += [f"{place} {noun} {adjective}", f"{adjective} {place} {noun}", f"{place} {plural}"]
    return str(rng.choice(ways))
