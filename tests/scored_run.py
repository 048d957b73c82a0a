"""A tiny run whose network has a lesion score, trained once for all tests that ask for it."""

from pathlib import Path

import pytest
from conftest import make_once, step_by_step


def train_scored_run(phantom_data: Path, factory: pytest.TempPathFactory) -> Path:
    """The run's folder, with a space and a letter beyond ASCII in its path. Read only: copy it to change files."""

    def train(folder: Path) -> None:
        import train_model

        small = dict(encoder="none", start_from="random", image_size=32, depth=2, base_filters=4, batch_size=40)
        small |= dict(epochs=2, lesion_score=1.0, split="all-random")  # with normal images in the test part
        config = train_model.TrainingConfig((phantom_data,), models_dir=folder, **small)
        with pytest.MonkeyPatch.context() as patch, step_by_step():
            patch.setattr(train_model, "MIN_NORMALS", 1)  # there are few here, and the score is to be kept
            train_model.main(config)

    return make_once(factory, "my lab é", train) / "attention_unet"
