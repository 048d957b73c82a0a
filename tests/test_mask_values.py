"""Masks as people save them: every lesion's pixels are counted, or the file is refused by name."""

import cv2
import numpy as np
import pytest
from folders import PICTURES, SHAPE, lesion, picture, read, save, size, white, write_pairs
from PIL import Image

from dataset import DataError, find_samples, read_samples


def grey(value, dtype=np.uint8, ground=0):
    return lambda mask, path: save(path, np.where(mask, value, ground).astype(dtype))


def colour(*values, ground=(0, 0, 0)):
    """The lesions have these colours in turn."""
    turn = iter(range(100))

    def draw(mask, path):
        value = values[next(turn) % len(values)]
        save(path, np.where(mask[..., None], value, ground).astype(np.uint8))

    return draw


def in_turn(*draws):
    turn = iter(range(100))
    return lambda mask, path: draws[next(turn) % len(draws)](mask, path)


def palette(*colours):
    def draw(mask, path):
        drawn = Image.fromarray(mask.astype(np.uint8), mode="P")
        drawn.putpalette(sum(colours, ()))
        drawn.save(path)

    return draw


def see_through(value, under=None, alpha=255):
    """Drawn in one colour on nothing; `under` is what stands where nothing is seen."""

    def draw(mask, path):
        drawn = np.zeros((*SHAPE, 4), np.uint8)
        drawn[..., :3] = np.where(mask[..., None], value, value if under is None else under)
        drawn[..., 3] = mask * alpha
        save(path, drawn)

    return draw


def solid(alpha):
    """White on black, with the same transparency everywhere."""
    return lambda mask, path: save(path, np.dstack([*[mask * 255] * 3, np.full(SHAPE, alpha)]).astype(np.uint8))


def rounded(mask, path):
    """A screenshot with transparent corners."""
    drawn = np.dstack([*[mask * 255] * 3, np.full(SHAPE, 255)]).astype(np.uint8)
    drawn[:3, :3, 3] = drawn[-3:, -3:, 3] = 0
    save(path, drawn)


def edges(add):
    """A rim of in-between pixels around the lesion."""

    def draw(mask, path):
        rim = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))).astype(bool) & ~mask
        save(path, np.where(mask, 255, np.where(rim, add, 0)).astype(np.uint8))

    return draw


def blurred(mask, path):
    save(path, cv2.GaussianBlur(mask.astype(np.uint8) * 255, (0, 0), 0.7))


def jpeg(values, quality):
    def draw(mask, path):
        save(path, np.where(mask[..., None] if np.ndim(values) else mask, values, 0).astype(np.uint8), quality=quality)

    return draw


READ = {
    "0 and 255": (white, "masks hold 0 and 255; 255 is lesion"),
    "0 and 1": (grey(1), "masks hold 0 and 1; 1 is lesion"),
    "0 and 127": (grey(127), "masks hold 0 and 127; 127 is lesion"),
    "0 and 30": (grey(30), "masks hold 0 and 30; 30 is lesion"),
    "1 and 2": (grey(2, ground=1), "masks hold 1 and 2; 2 is lesion"),
    "16 bits, 0 and 1": (grey(1, np.uint16), "masks hold 0 and 1; 1 is lesion"),
    "16 bits, 0 and 4095": (grey(4095, np.uint16), "masks hold 0 and 4095; 4095 is lesion"),
    "16 bits, 0 and 65535": (grey(65535, np.uint16), "masks hold 0 and 65535; 65535 is lesion"),
    "palette, red": (palette((0, 0, 0), (128, 0, 0)), "masks hold 0 and (128, 0, 0); (128, 0, 0) is lesion"),
    "palette of ones": (palette((0, 0, 0), (1, 1, 1)), "masks hold 0 and 1; 1 is lesion"),
    "palette of viridis": (palette((68, 1, 84), (253, 231, 37)), "(253, 231, 37) is lesion"),
    "one bit": (lambda mask, path: Image.fromarray(mask).convert("1").save(path), "255 is lesion"),
    "red": (colour((255, 0, 0)), "masks hold 0 and (255, 0, 0); (255, 0, 0) is lesion"),
    "blue": (colour((0, 0, 255)), "masks hold 0 and (0, 0, 255); (0, 0, 255) is lesion"),
    "dark blue": (colour((0, 0, 90)), "masks hold 0 and (0, 0, 90); (0, 0, 90) is lesion"),
    "green and red": (colour((0, 255, 0), (255, 0, 0)), "(0, 255, 0) and (255, 0, 0) are lesion"),
    "black on white": (grey(0, ground=255), "note: 255 fills the borders of the masks and is read as background"),
    "red on white": (colour((255, 0, 0), ground=(255,) * 3), "note: 255 fills the borders of the masks"),
    "white on transparent": (see_through(255), "255 is lesion"),
    "white on transparent black": (see_through(255, under=0), "255 is lesion"),
    "red on transparent": (see_through((255, 0, 0)), "(255, 0, 0) is lesion"),
    "black on transparent": (see_through(0), "255 is lesion"),
    "half transparent": (see_through((255, 0, 0), alpha=96), "masks hold 0 and (96, 0, 0); (96, 0, 0) is lesion"),
    "constant alpha": (solid(255), "masks hold 0 and 255; 255 is lesion"),
    "transparent corners": (rounded, "masks hold 0 and 255; 255 is lesion"),
    "constant alpha of 0": (solid(0), "masks hold 0 and 255; 255 is lesion"),
    "0 and 255, and 0 and 1": (in_turn(white, grey(1)), "masks hold 0, 1 and 255; 1 and 255 are lesion"),
    "grey and red": (in_turn(white, colour((255, 0, 0))), "255 and (255, 0, 0) are lesion"),
    "soft edges, nearly none": (edges(100), "masks hold 3 values, as soft edges"),
    "soft edges, of one": (edges(127), "what is near 255 and not 0 is lesion"),
    "blurred": (blurred, "what is near 255 and not 0 is lesion"),
}


@pytest.mark.parametrize("case", READ)
def test_masks_are_understood(case, tmp_path, capsys):
    draw, line = READ[case]
    expected = write_pairs(tmp_path, draw)
    assert read(tmp_path) == expected
    assert line in capsys.readouterr().out


CLASSES = {  # the values of the lesions, in turn
    "three greys": ((1, 2, 3), "masks hold 0, 1, 2 and 3; 1, 2 and 3 are lesion"),
    "three bright greys": ((85, 170, 255), "85, 170 and 255 are lesion"),
    "eight greys": (range(1, 9), "masks hold 0, 1, 2, 5 more and 8"),
    "faint and bright": ((20, 255), "20 and 255 are lesion"),
}


@pytest.mark.parametrize("case", CLASSES)
def test_every_class_is_lesion(case, tmp_path, capsys):
    values, line = CLASSES[case]
    expected = write_pairs(tmp_path, in_turn(*map(grey, values)))
    assert read(tmp_path) == expected
    assert line in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["tif", "bmp"])
def test_masks_of_other_formats(ending, tmp_path):
    draw = grey(1, np.float32) if ending == "tif" else lambda mask, path: Image.fromarray(mask).save(path)
    expected = write_pairs(tmp_path, draw, mask="masks/scan{}." + ending)
    assert read(tmp_path) == expected


@pytest.mark.parametrize("quality", [60, 75, 95, 100])
@pytest.mark.parametrize("values", [255, 127, (255, 0, 0), (0, 200, 0)])
def test_compression_is_tolerated(values, quality, tmp_path):
    expected = write_pairs(tmp_path, jpeg(values, quality), mask="masks/scan{}.jpg")
    found = read(tmp_path)
    for name, (label, pixels) in expected.items():
        assert found[name][0] == label
        # Colours are stored at half the size, so that an edge may move by half a pixel.
        assert abs(found[name][1] - pixels) <= (25 if np.ndim(values) else 2)


@pytest.mark.parametrize("sigma", [1, 2])
def test_soft_edges_are_cut_half_way(sigma, tmp_path):
    """A disc of radius 9 has 253 pixels (254 by its area), whatever its edge looks like."""
    disc = cv2.circle(np.zeros(SHAPE, np.uint8), (25, 20), 9, 255, -1)
    assert (disc > 0).sum() == 253
    write_pairs(tmp_path, lambda mask, path: save(path, cv2.GaussianBlur(disc, (0, 0), sigma)))
    assert all(abs(pixels - 253) <= 8 * sigma for _, pixels in read(tmp_path).values())


def test_an_inner_area_is_no_outline(tmp_path):
    """255 is all around 127, two pixels wide: both are lesion."""

    def draw(mask, path):
        inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0
        save(path, np.where(inner, 127, mask * 255).astype(np.uint8))

    expected = write_pairs(tmp_path, draw)
    assert read(tmp_path) == expected


# ---------------------------------------------------------------- what is refused


def curve(thickness):
    def draw(mask, path):
        outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        save(path, cv2.drawContours(np.zeros(SHAPE, np.uint8), outline, -1, 255, thickness))

    return draw


def dots(mask, path):
    """Every other pixel of the outline."""
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = np.zeros(SHAPE, np.uint8)
    for x, y in outline[0][::2, 0] if outline else ():
        drawn[y, x] = 255
    save(path, drawn)


def drawn_over(thickness):
    def draw(mask, path):
        outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        colours = cv2.cvtColor(picture(3), cv2.COLOR_GRAY2RGB)
        save(path, cv2.drawContours(colours, outline, -1, (255, 0, 0), thickness))

    return draw


def two_areas(first, second):
    """A small area of another value far from the lesion's."""

    def draw(mask, path):
        values = np.where(mask, first, 0)
        values[33:38, 40:48] = second
        save(path, values.astype(np.uint8))

    return draw


def not_a_number(mask, path):
    save(path, np.where(mask, np.nan, 0).astype(np.float32))


def deep_colours(mask, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.dstack([mask.astype(np.uint16)] * 3))


def uniform(mask, path):
    save(path, np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8))


def spread(mask, path):
    save(path, cv2.GaussianBlur(mask.astype(np.uint8) * 255, (0, 0), 5))


REFUSED = {  # for one of ten files, or all: words of the message
    "outlines": (curve(1), "an outline and not an area"),
    "thick outlines": (curve(2), "an outline and not an area"),
    "drawn over the picture": (drawn_over(1), "in between. That is no mask"),
    "filled over the picture": (drawn_over(-1), "in between. That is no mask"),
    "the picture itself": (lambda mask, path: save(path, picture(5)), "in between. That is no mask"),
    "the lesion cut out": (lambda mask, path: save(path, picture(5) * mask), "in between. That is no mask"),
    "noise": (uniform, "in between. That is no mask"),
    "a map of heat": (spread, "in between. That is no mask"),
    "1 beside 255": (two_areas(255, 1), "holds 0, 1 and 255; whether 1 is lesion cannot be told"),
    "10 beside 255": (two_areas(255, 10), "holds 0, 10 and 255; whether 10 is lesion cannot be told"),
    "not a number": (not_a_number, "no number"),
    "colours of 16 bits": (deep_colours, "colours of 16 bits"),
}


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_known_is_refused_by_name(case, one, tmp_path):
    draw, words = REFUSED[case]
    ending = "tif" if case == "not a number" else "png"
    turn = iter(range(100))
    write_pairs(
        tmp_path,
        lambda mask, path: draw(mask, path) if next(turn) == 3 or not one else white(mask, path),
        mask="masks/scan{}." + ending,
    )
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert words in str(error.value) and "masks" in str(error.value)
    assert not one or f"scan3.{ending}" in str(error.value)


def test_dotted_outlines_are_refused(tmp_path):
    write_pairs(tmp_path, dots)
    with pytest.raises(DataError, match=r"scan0.png: holds an outline and not an area, as 9 of 10"):
        read(tmp_path)


@pytest.mark.parametrize("count", [9, 12])
def test_numbered_lesions_are_refused_with_their_number(count, tmp_path):
    write_pairs(tmp_path, in_turn(*map(grey, range(1, count + 1))))
    with pytest.raises(DataError, match=r"masks.scan\d.png: holds 0 and \d+; the masks hold 9 different areas"):
        read(tmp_path)


@pytest.mark.parametrize("value", [1, 40])
def test_a_faint_file_among_compressed_ones_is_refused_by_name(value, tmp_path):
    write_pairs(tmp_path, jpeg(255, 75), mask="masks/scan{}.jpg")
    (tmp_path / "masks" / "scan3.jpg").unlink()
    grey(value)(lesion(3), tmp_path / "masks" / "scan3.png")
    with pytest.raises(DataError, match=f"scan3.png: holds 0 and {value}, where other masks hold 255 with soft edges"):
        read(tmp_path)


def test_faint_noise_that_is_no_area_is_refused_by_name(tmp_path):
    write_pairs(tmp_path)
    noise = (np.arange(2000).reshape(SHAPE) % 7 == 0).astype(np.uint8)
    save(tmp_path / "masks" / "scan9.png", noise)
    with pytest.raises(DataError, match=r"scan9.png: holds 0 and 1; in other masks lesion differs .* more than 127.5"):
        read(tmp_path)


def test_spots_in_between_are_refused_by_name(tmp_path):
    """Pixels of another class, too small to have an inside, that half way from 0 to 255 would lose."""
    write_pairs(tmp_path)
    values = lesion(3).astype(np.uint8) * 255
    values[30:39:2, 2:12:2] = 100
    save(tmp_path / "masks" / "scan3.png", values)
    with pytest.raises(DataError, match=r"scan3.png: holds 0, 100 and 255; 25 pixels are neither background nor"):
        read(tmp_path)


def test_compressed_classes_are_told_from_noise(tmp_path):
    """Grey 40 beside 255 may be a class or what compression left; grey 127 is no noise."""

    def draw(value):
        def both(mask, path):
            values = np.where(mask, 255, 0).astype(np.uint8)
            values[26:39, 30:47] = value * mask.any()
            save(path, values, quality=75)

        return both

    expected = write_pairs(tmp_path / "grey", draw(127), mask="masks/scan{}.jpg")
    expected = {name: (label, pixels and pixels + 13 * 17) for name, (label, pixels) in expected.items()}
    assert read(tmp_path / "grey") == expected
    write_pairs(tmp_path / "faint", draw(40), mask="masks/scan{}.jpg")
    with pytest.raises(DataError, match=r"scan\d.jpg"):
        read(tmp_path / "faint")


# ---------------------------------------------------------------- what is said


def test_most_of_the_picture_is_worth_a_note(tmp_path, capsys):
    def draw(mask, path):
        values = np.full(SHAPE, 255, np.uint8)
        values[:, :9] = 0
        save(path, values)

    write_pairs(tmp_path, draw)
    assert set(read(tmp_path).values()) == {("lesion", 40 * 41)}
    assert "note: in 10 of 10 masks most of the picture is lesion. Are they inverted?" in capsys.readouterr().out


def test_a_lesion_may_touch_the_border(tmp_path, capsys):
    def draw(mask, path):
        values = np.zeros(SHAPE, np.uint8)
        values[:12, 5:25] = values[:, :3] = 255
        save(path, values)

    write_pairs(tmp_path, draw)
    assert set(read(tmp_path).values()) == {("lesion", 12 * 20 + 40 * 3)}
    assert capsys.readouterr().out == "masks hold 0 and 255; 255 is lesion\n"


def test_single_inverted_masks_are_named(tmp_path, capsys):
    write_pairs(tmp_path)
    grey(0, ground=255)(lesion(3), tmp_path / "masks" / "scan3.png")
    assert read(tmp_path)["scan3"] == ("lesion", 2000 - size(3))
    assert "note: in 1 of 9 masks lesion fills the border (scan3.png). Are they inverted?" in capsys.readouterr().out


def test_single_thin_masks_are_named(tmp_path, capsys):
    write_pairs(tmp_path)
    dots(lesion(3), tmp_path / "masks" / "scan3.png")
    read(tmp_path)
    assert "note: 1 masks hold thin lines alone (scan3.png)" in capsys.readouterr().out


def test_masks_that_are_all_empty_are_no_data(tmp_path):
    write_pairs(tmp_path, lambda mask, path: white(mask & False, path))
    with pytest.raises(DataError, match="holds no image of a lesion"):
        read(tmp_path)


def test_unreadable_masks_are_named_all(tmp_path):
    write_pairs(tmp_path)
    for i in (2, 5):
        (tmp_path / "masks" / f"scan{i}.png").write_text("<html>404</html>")
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert [
        f"scan{i}.png: cannot be read" in line for i, line in zip((2, 5), str(error.value).splitlines(), strict=True)
    ]


# ---------------------------------------------------------------- values that the user names


def test_named_values_are_lesion_and_no_others(tmp_path, capsys):
    write_pairs(tmp_path, in_turn(grey(1), grey(2), grey(3)))
    found = read(tmp_path, mask_values=(2,))
    assert found == {f"scan{i}": ("lesion", size(i)) if i % 3 == 1 else ("normal", 0) for i in range(PICTURES)}
    assert "masks hold 0, 1, 2 and 3; 2 is lesion, as you said" in capsys.readouterr().out
    found = read(tmp_path, mask_values=(1, 3))
    assert found == {
        f"scan{i}": ("lesion", size(i)) if i % 3 != 1 and i < 9 else ("normal", 0) for i in range(PICTURES)
    }


def test_named_values_settle_what_cannot_be_told(tmp_path):
    expected = write_pairs(tmp_path, two_areas(255, 1))
    expected["scan9"] = ("normal", 0)
    assert read(tmp_path, mask_values=(255,)) == expected


@pytest.mark.parametrize("kind", [np.float32, np.uint16])
def test_named_values_may_be_of_any_format(kind, tmp_path):
    value = 0.1 if kind == np.float32 else 4095
    expected = write_pairs(tmp_path, grey(value, kind), mask="masks/scan{}.tif")
    assert read(tmp_path, mask_values=(value,)) == expected


def test_named_values_that_no_mask_holds_are_refused(tmp_path):
    write_pairs(tmp_path, grey(1))
    with pytest.raises(DataError, match="no mask holds 3, which you named as lesion; they hold 0 and 1"):
        read(tmp_path, mask_values=(1, 3))


def test_colours_have_no_grey_value(tmp_path):
    write_pairs(tmp_path, colour((255, 0, 0)))
    with pytest.raises(DataError, match=r"scan0.png: holds colours, 0 and \(255, 0, 0\)"):
        read(tmp_path, mask_values=(255,))


# ---------------------------------------------------------------- pixel depth


def ramp(top, kind):
    """From 0 to `top`, (40, 50)."""
    return np.linspace(0, top, 2000).reshape(SHAPE).astype(kind)


def write_deep(root, *pictures):
    """Ten images in turn, with masks."""
    write_pairs(root)
    for i in range(PICTURES):
        (root / "images" / f"scan{i}.png").unlink()
        picture = pictures[i % len(pictures)]
        save(root / "images" / f"scan{i}.{'tif' if picture.dtype == np.float32 else 'png'}", picture)


DEEP = {  # the values, what is white, and what is said
    "12 bits": (ramp(4095, np.uint16), 4095, "10 pictures of more than 8 bits hold values up to 4095; 4095 is white"),
    "12 bits, dark": (ramp(3000, np.uint16), 4095, "hold values up to 3000; 4095 is white"),
    "10 bits": (ramp(1023, np.uint16), 1023, "hold values up to 1023; 1023 is white"),
    "16 bits": (ramp(65535, np.uint16), 65535, "hold values up to 65535; 65535 is white"),
    "8 bits in 16": (ramp(255, np.uint16), 255, "hold values up to 255; 255 is white"),
    "fractions": (ramp(1, np.float32), 1, "hold values up to 1; 1 is white"),
    "fractions, filtered": (ramp(1.02, np.float32) - np.float32(0.01), 1, "hold values up to 1.01; 1 is white"),
    "fractions of 255": (ramp(254.5, np.float32), 255, "hold values up to 254.5; 255 is white"),
}


@pytest.mark.parametrize("case", DEEP)
def test_the_range_is_the_folders(case, tmp_path, capsys):
    values, top, line = DEEP[case]
    write_deep(tmp_path, values)
    samples = find_samples(tmp_path)
    image, mask = read_samples(samples)[4]
    assert np.array_equal(image, (np.clip(values / top, 0, 1) * 255).round())
    assert mask.sum() == size(4) and {s.white for s in samples} == {top}
    assert line in capsys.readouterr().out


def test_one_range_for_dark_and_bright_pictures(tmp_path):
    write_deep(tmp_path, ramp(4095, np.uint16), ramp(900, np.uint16))
    bright, dark = (image for image, _ in read_samples(find_samples(tmp_path))[:2])
    assert (bright.max(), dark.max()) == (255, 56)


def test_8_bits_beside_16_stay_as_they_are(tmp_path, capsys):
    write_deep(tmp_path, ramp(65535, np.uint16), picture(1))
    images = [image for image, _ in read_samples(find_samples(tmp_path))]
    assert all(np.array_equal(image, picture(1)) for image in images[1::2]) and images[0].max() == 255
    assert "5 pictures of more than 8 bits" in capsys.readouterr().out


def test_two_ranges_in_one_folder_are_worth_a_note(tmp_path, capsys):
    write_deep(tmp_path, ramp(65535, np.uint16), ramp(4095, np.uint16))
    find_samples(tmp_path)
    assert "note: 5 of them hold nothing brighter than an eighth of that, scan1.png first" in capsys.readouterr().out


def test_a_few_pixels_beyond_the_range_change_nothing(tmp_path, capsys):
    values = ramp(4000, np.uint16)
    values[0, 0] = 65535
    write_deep(tmp_path, values)
    image, _ = read_samples(find_samples(tmp_path))[0]
    assert image[0, 0] == 255 and image[-1, -1] == round(4000 / 4095 * 255)
    assert "hold values up to 65535; 4095 is white" in capsys.readouterr().out


def test_several_pages_are_worth_a_note(tmp_path, capsys):
    write_pairs(tmp_path)
    pages = [Image.fromarray(picture(i)) for i in range(3)]
    pages[0].save(tmp_path / "images" / "scan4.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "images" / "scan4.png").unlink()
    masks = [Image.fromarray(lesion(i).astype(np.uint8)) for i in (5, 6)]
    masks[0].save(tmp_path / "masks" / "scan5.tif", save_all=True, append_images=masks[1:])
    (tmp_path / "masks" / "scan5.png").unlink()
    samples = find_samples(tmp_path)
    assert np.array_equal(read_samples(samples)[4][0], picture(0))
    assert "note: 2 files hold several pictures, scan4.tif first; only the first" in capsys.readouterr().out


def with_(value):
    values = ramp(1, np.float32)
    values[3, 3] = value
    return values


BAD = {
    "NaN": (with_(np.nan), "no number"),
    "infinite": (with_(np.inf), "no number"),
    "negative": (ramp(2, np.float32) - 1, "holds values down to -1"),
    "16 bits of colour": (None, "colours of 16 bits"),
}


@pytest.mark.parametrize("case", BAD)
def test_pictures_that_have_no_range_are_refused_by_name(case, tmp_path):
    values, words = BAD[case]
    write_deep(tmp_path, ramp(1, np.float32))
    (tmp_path / "images" / "scan6.tif").unlink()
    path = tmp_path / "images" / "scan6.tif"
    deep_colours(lesion(6), path) if values is None else save(path, values)
    with pytest.raises(DataError, match=f"scan6.tif: .*{words}"):
        read(tmp_path)
