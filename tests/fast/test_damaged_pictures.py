"""Damaged pictures and masks: each is read, or refused in one line that names it."""

import io

import numpy as np
import pytest
from folders import picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import dataset
from dataset import DataError
from segmentation.pictures.picture_files import Picture, read_picture

FORMATS = [("png", "L"), ("png", "RGB"), ("png", "1"), ("png", "P"), ("png", "RGBA"), ("png", "I;16")]
FORMATS += [("jpeg", "L"), ("bmp", "L"), ("tiff", "L")]
HUGE = (2**31 - 1).to_bytes(4, "big")


@st.composite
def damages(draw, content: bytes) -> bytes:
    """Cut off, overwritten or put in, mostly in the header; or another file."""
    data, at = bytearray(content), draw(st.integers(0, 63) | st.integers(0, len(content) - 1))
    data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=20) | st.just(HUGE))
    return draw(st.sampled_from([bytes(data), content[:at], b"", b"<html>404</html>", b"II*\0" + bytes(60)]))


def saved(ending: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(picture().astype(np.uint16) * 200) if mode == "I;16" else Image.fromarray(picture())
    (image if mode == "I;16" else image.convert(mode)).save(buffer, ending)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata, which is no fault of this project
def test_a_damaged_picture_is_read_or_refused_by_name(tmp_path):
    whole, count = {key: saved(*key) for key in FORMATS}, {"read": 0, "refused": 0}

    @settings(max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def try_to_read(data):
        ending, mode = data.draw(st.sampled_from(FORMATS))
        path = tmp_path / f"a.{ending}"
        path.write_bytes(data.draw(damages(whole[ending, mode])))
        try:
            image = read_picture(Picture(path))[0]
            assert image.dtype == np.uint8 and image.ndim == 2 and image.size <= dataset.MAX_PIXELS
            if ending == "png" and mode != "I;16":  # what a training reads
                assert set(np.unique(dataset.read_mask([path], image.shape))) <= {0, 1}
            count["read"] += 1
        except DataError as error:
            assert path.name in str(error) and "\n" not in str(error)
            count["refused"] += 1

    try_to_read()
    assert count["refused"] > 100 and count["read"] > 5, count
