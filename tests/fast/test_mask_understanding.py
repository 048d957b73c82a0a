"""Masks as people save them: every lesion's pixels are counted, or the file is refused by name."""

from functools import partial
from itertools import cycle

import cv2
import numpy as np
import pytest
from folders import PICTURES, SHAPE, lesion, picture, read, save, size, white, write_pairs
from PIL import Image

from dataset import DataError

# Each of these returns what draws one mask, (mask, path).


def drawn(make, **options):
    return lambda mask, path: save(path, make(mask).astype(np.uint8), **options)


def grey(value, dtype=np.uint8, ground=0):
    return lambda mask, path: save(path, np.where(mask, value, ground).astype(dtype))


def colour(*value, ground=(0, 0, 0), **options):
    return drawn(lambda mask: np.where(mask[..., None], value, ground), **options)


def in_turn(*draws):
    turn = cycle(draws)
    return lambda mask, path: next(turn)(mask, path)


def palette(*colours):
    def draw(mask, path):
        picture = Image.fromarray(mask.astype(np.uint8), mode="P")
        picture.putpalette(sum(colours, ()))
        picture.save(path)

    return draw


def see_through(value, under=None, alpha=255):
    """Drawn in one colour on nothing; `under` is what stands where nothing is seen."""
    under = value if under is None else under
    return drawn(lambda mask: np.dstack([np.where(mask[..., None], value, under) * np.ones(3), mask * alpha]))


def solid(alpha, corners=255):
    """White on black, with the same transparency everywhere, but for two corners."""
    transparency = np.full(SHAPE, alpha)
    transparency[:3, :3] = transparency[-3:, -3:] = min(alpha, corners)
    return drawn(lambda mask: np.dstack([*[mask * 255] * 3, transparency]))


def edges(value):
    """A rim of in-between pixels around the lesion."""
    return drawn(lambda mask: np.where(mask, 255, cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) * value))


def blurred(sigma):
    return drawn(lambda mask: cv2.GaussianBlur(mask.astype(np.uint8) * 255, (0, 0), sigma))


def jpeg(value, quality):
    return drawn(lambda mask: mask * value, quality=quality)


# 255 is all around 127, two pixels wide: both are lesion, and it is no outline.
INNER = drawn(lambda mask: np.where(cv2.erode(mask.astype(np.uint8), np.ones((5, 5))), 127, mask * 255))
RED = (255, 0, 0)
READ = {  # how a mask is drawn, and what the printed line says
    "0 and 255": (white, "masks hold 0 and 255; 255 is lesion"),
    "0 and 1": (grey(1), "masks hold 0 and 1; 1 is lesion"),
    "0 and 30": (grey(30), "masks hold 0 and 30; 30 is lesion"),
    "1 and 2": (grey(2, ground=1), "masks hold 1 and 2; 2 is lesion"),
    "16 bits, 0 and 1": (grey(1, np.uint16), "masks hold 0 and 1; 1 is lesion"),
    "16 bits, 0 and 4095": (grey(4095, np.uint16), "masks hold 0 and 4095; 4095 is lesion"),
    "palette, red": (palette((0, 0, 0), (128, 0, 0)), "masks hold 0 and (128, 0, 0); (128, 0, 0) is lesion"),
    "palette of ones": (palette((0, 0, 0), (1, 1, 1)), "masks hold 0 and 1; 1 is lesion"),
    "palette of viridis": (palette((68, 1, 84), (253, 231, 37)), "(253, 231, 37) is lesion"),
    "one bit": (lambda mask, path: Image.fromarray(mask).convert("1").save(path), "255 is lesion"),
    "red": (colour(*RED), "masks hold 0 and (255, 0, 0); (255, 0, 0) is lesion"),
    "dark blue": (colour(0, 0, 90), "masks hold 0 and (0, 0, 90); (0, 0, 90) is lesion"),
    "green and red": (in_turn(colour(0, 255, 0), colour(*RED)), "(0, 255, 0) and (255, 0, 0) are lesion"),
    "black on white": (grey(0, ground=255), "note: 255 fills the borders of the masks and is read as background"),
    "red on white": (colour(*RED, ground=(255,) * 3), "note: 255 fills the borders of the masks"),
    "white on transparent": (see_through(255), "255 is lesion"),
    "white on transparent black": (see_through(255, under=0), "255 is lesion"),
    "red on transparent": (see_through(RED), "(255, 0, 0) is lesion"),
    "black on transparent": (see_through(0), "255 is lesion"),
    "half transparent": (see_through(RED, alpha=96), "masks hold 0 and (96, 0, 0); (96, 0, 0) is lesion"),
    "constant alpha": (solid(255), "masks hold 0 and 255; 255 is lesion"),
    "transparent corners": (solid(255, corners=0), "masks hold 0 and 255; 255 is lesion"),
    "constant alpha of 0": (solid(0), "masks hold 0 and 255; 255 is lesion"),
    "0 and 255, and 0 and 1": (in_turn(white, grey(1)), "masks hold 0, 1 and 255; 1 and 255 are lesion"),
    "grey and red": (in_turn(white, colour(*RED)), "255 and (255, 0, 0) are lesion"),
    "three classes": (in_turn(*map(grey, (1, 2, 3))), "masks hold 0, 1, 2 and 3; 1, 2 and 3 are lesion"),
    "three bright classes": (in_turn(*map(grey, (85, 170, 255))), "85, 170 and 255 are lesion"),
    "eight classes": (in_turn(*map(grey, range(1, 9))), "masks hold 0, 1, 2, 5 more and 8"),
    "faint and bright": (in_turn(grey(20), grey(255)), "20 and 255 are lesion"),
    "a class around another": (INNER, "what is near 127 and not 0 is lesion"),
    "soft edges, nearly none": (edges(100), "masks hold 3 values, as soft edges"),
    "soft edges, of one": (edges(127), "what is near 255 and not 0 is lesion"),
    "blurred": (blurred(0.7), "what is near 255 and not 0 is lesion"),
}


@pytest.mark.parametrize("case", READ)
def test_every_lesion_is_counted_and_a_line_says_how(case, tmp_path, capsys):
    draw, line = READ[case]
    expected = write_pairs(tmp_path, draw)
    assert read(tmp_path) == expected
    assert line in capsys.readouterr().out


@pytest.mark.parametrize("quality", [60, 100])
@pytest.mark.parametrize(
    ("draw", "off"),  # colours are stored at half the size, so that an edge may move by half a pixel
    [(partial(jpeg, 255), 2), (partial(jpeg, 127), 2), (partial(colour, *RED), 25), (partial(colour, 0, 200, 0), 25)],
)
def test_compression_is_tolerated(draw, off, quality, tmp_path):
    expected = write_pairs(tmp_path, draw(quality=quality), mask="masks/scan{}.jpg")
    found = read(tmp_path)
    assert [found[name][0] for name in expected] == [label for label, _ in expected.values()]
    assert all(abs(found[name][1] - pixels) <= off for name, (_, pixels) in expected.items())


@pytest.mark.parametrize("sigma", [1, 2])
def test_soft_edges_are_cut_half_way(sigma, tmp_path):
    """A disc of radius 9 has 253 pixels (254 by its area), whatever its edge looks like."""
    disc = cv2.circle(np.zeros(SHAPE, np.uint8), (25, 20), 9, 1, -1)
    assert disc.sum() == 253
    write_pairs(tmp_path, lambda mask, path: blurred(sigma)(disc, path))
    assert all(abs(pixels - 253) <= 8 * sigma for _, pixels in read(tmp_path).values())


# ---------------------------------------------------------------- what is refused


def contour(mask):
    return cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]


def outline(thickness):
    return drawn(lambda mask: cv2.drawContours(np.zeros(SHAPE, np.uint8), contour(mask), -1, 255, thickness))


def over_a_picture(thickness):
    colours = cv2.cvtColor(picture(3), cv2.COLOR_GRAY2RGB)
    return drawn(lambda mask: cv2.drawContours(colours.copy(), contour(mask), -1, RED, thickness))


@drawn
def dots(mask):
    """Every other pixel of the outline."""
    values = np.zeros(SHAPE)
    for line in contour(mask):
        values[line[::2, 0, 1], line[::2, 0, 0]] = 255
    return values


def with_area(value):
    """A small area of another value far from the lesion's."""
    area = np.zeros(SHAPE)
    area[33:38, 40:48] = value
    return drawn(lambda mask: mask * 255 + area)


SPOTS = np.zeros(SHAPE)  # pixels of another class, too small to have an inside, that half way from 0 to 255 would lose
SPOTS[30:39:2, 2:12:2] = 100


def deep_colours(mask, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.dstack([mask.astype(np.uint16)] * 3))


SPECKLE = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
REFUSED = {  # for one of ten files, or all: words of the message
    "outlines": (outline(1), "outline"),
    "thick outlines": (outline(2), "outline"),
    "drawn over the picture": (over_a_picture(1), "no mask"),
    "filled over the picture": (over_a_picture(-1), "no mask"),
    "the picture itself": (drawn(lambda mask: picture(5)), "no mask"),
    "the lesion cut out": (drawn(lambda mask: picture(5) * mask), "no mask"),
    "noise": (drawn(lambda mask: SPECKLE), "no mask"),
    "a map of heat": (blurred(5), "no mask"),
    "1 beside 255": (with_area(1), "holds 0, 1 and 255; 40 pixels of 1 are neither"),
    "10 beside 255": (with_area(10), "holds 0, 10 and 255; 40 pixels of 10 are neither"),
    "spots": (drawn(lambda mask: mask * 255 + SPOTS), "holds 0, 100 and 255; 25 pixels of 100 are neither"),
    "not a number": (lambda mask, path: save(path, np.where(mask, np.nan, 0).astype(np.float32)), "NaN or infinite"),
    "colours of 16 bits": (deep_colours, "colours of 16 bits"),
}


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_known_is_refused_by_name(case, one, tmp_path):
    draw, words = REFUSED[case]
    ending = "tif" if case == "not a number" else "png"
    turns = in_turn(*(draw if i == 3 or not one else white for i in range(PICTURES)))
    write_pairs(tmp_path, turns, mask="masks/scan{}." + ending)
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert words in str(error.value) and (f"scan3.{ending}" if one else "masks") in str(error.value)


FAINT_NOISE = np.arange(2000).reshape(SHAPE) % 7 == 0
TOGETHER = {  # all masks but the fourth, their ending, the fourth, and the message: none is wrong alone
    "dotted outlines": (dots, "png", dots, r"scan0.png: holds an outline and not an area, as 9 of 10"),
    "numbered lesions": (in_turn(*map(grey, range(1, 12))), "png", grey(12), r"holds 0 and \d+; .* 9 different areas"),
    "faint beside compressed": (jpeg(255, 75), "jpg", grey(40), "scan3.png: holds 0 and 40, where other masks"),
    "1 beside compressed 255": (jpeg(255, 75), "jpg", grey(1), "scan3.png: holds 0 and 1, where other masks"),
    "faint noise": (white, "png", drawn(lambda mask: FAINT_NOISE), "scan3.png: .* 286 pixels of 1 are neither"),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_masks_that_contradict_each_other_are_refused_by_name(case, tmp_path):
    draw, ending, other, message = TOGETHER[case]
    write_pairs(tmp_path, draw, mask="masks/scan{}." + ending)
    (tmp_path / "masks" / f"scan3.{ending}").unlink()
    other(lesion(3), tmp_path / "masks" / "scan3.png")
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def with_class(value):
    """A JPEG of 255 and, in the same picture, a rectangle of 13x17 of another grey."""
    area = np.zeros(SHAPE)
    area[26:39, 30:47] = value
    return drawn(lambda mask: np.where(area, area * mask.any(), mask * 255), quality=75)


def test_compressed_classes_are_told_from_noise(tmp_path):
    """Grey 40 beside 255 may be a class or what compression left; grey 127 is no noise."""
    expected = write_pairs(tmp_path / "grey", with_class(127), mask="masks/scan{}.jpg")
    expected = {name: (label, pixels and pixels + 13 * 17) for name, (label, pixels) in expected.items()}
    assert read(tmp_path / "grey", mask_values=("all",)) == expected
    write_pairs(tmp_path / "faint", with_class(40), mask="masks/scan{}.jpg")
    with pytest.raises(DataError, match=r"scan\d.jpg"):
        read(tmp_path / "faint", mask_values=("all",))


def test_masks_that_are_all_empty_are_no_data(tmp_path):
    write_pairs(tmp_path, lambda mask, path: white(mask & False, path))
    with pytest.raises(DataError, match="no image of a lesion"):
        read(tmp_path)


def test_an_unreadable_mask_is_named(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "masks" / "scan2.png").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"scan2.png: cannot be read"):
        read(tmp_path)


# ---------------------------------------------------------------- what is said


def test_most_of_the_picture_is_worth_a_note(tmp_path, capsys):
    most = np.arange(50) >= 9
    write_pairs(tmp_path, lambda mask, path: white(mask | most, path))
    assert {pixels for _, pixels in read(tmp_path).values()} == {40 * 41}
    assert "note: in 10 of 10 masks most of the picture is lesion." in capsys.readouterr().out


def test_a_lesion_may_touch_the_border(tmp_path, capsys):
    border = np.zeros(SHAPE, bool)
    border[:12, 5:25] = border[:, :3] = True
    write_pairs(tmp_path, lambda mask, path: white(border, path))
    assert {pixels for _, pixels in read(tmp_path).values()} == {12 * 20 + 40 * 3}
    assert "note" not in capsys.readouterr().out


def test_a_single_odd_mask_is_named(tmp_path, capsys):
    write_pairs(tmp_path)
    dots(lesion(3), tmp_path / "masks" / "scan3.png")
    assert read(tmp_path)["scan3"] == ("lesion", 23)
    assert "note: 1 masks hold thin lines alone (scan3.png)" in capsys.readouterr().out
    grey(0, ground=255)(lesion(3), tmp_path / "masks" / "scan3.png")
    with pytest.raises(DataError, match="scan3.png: lesion fills the border, as in 1 of 9 masks"):
        read(tmp_path)


# ---------------------------------------------------------------- values that the user names


def test_named_values_are_lesion_and_no_others(tmp_path, capsys):
    write_pairs(tmp_path, in_turn(grey(1), grey(2), grey(3)))
    for named in ((2,), (1, 3)):
        held = [i < 9 and i % 3 + 1 in named for i in range(PICTURES)]
        expected = {f"scan{i}": ("lesion", size(i)) if held[i] else ("normal", 0) for i in range(PICTURES)}
        assert read(tmp_path, mask_values=named) == expected
    assert "masks hold 0, 1, 2 and 3; 2 is lesion, as you said" in capsys.readouterr().out


def test_named_values_settle_what_cannot_be_told(tmp_path):
    expected = write_pairs(tmp_path, with_area(1))
    assert read(tmp_path, mask_values=(255,)) == expected


@pytest.mark.parametrize(("value", "kind"), [(0.1, np.float32), (4095, np.uint16)])
def test_named_values_may_be_of_any_format(value, kind, tmp_path):
    expected = write_pairs(tmp_path, grey(value, kind), mask="masks/scan{}.tif")
    assert read(tmp_path, mask_values=(value,)) == expected


@pytest.mark.parametrize(
    ("draw", "values", "message"),
    [
        (grey(1), (1, 3), "no mask holds 3, .* 0 and 1"),
        (colour(*RED), (255,), r"no mask holds 255, .* 0 and \(255, 0, 0\)"),
    ],
)
def test_named_values_that_no_mask_holds_are_refused(draw, values, message, tmp_path):
    write_pairs(tmp_path, draw)
    with pytest.raises(DataError, match=message):
        read(tmp_path, mask_values=values)
