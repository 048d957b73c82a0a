"""Draw the figures and the report of a run, or predict on your own images.

python visualize_results.py                                # newest run: figures and report.html of its test images
python visualize_results.py --run models/attention_unet    # another run
python visualize_results.py --images scan.png folder/      # predict on your own images, into predictions/
python visualize_results.py --images scan.dcm --dicom-seg  # and write a DICOM Segmentation for a viewer
"""

import sys
from functools import partial
from pathlib import Path

from segmentation.common import environment  # noqa: F401  # isort: skip

import tyro
from pydantic import model_validator
from tqdm import tqdm

from dataset import DataError
from segmentation.common.checks import AnyPath, Folders, Real, checked
from segmentation.common.errors import RunError, one_clear_line
from segmentation.common.files import try_writing, write_atomic
from segmentation.data.collection import collect, find_folders
from segmentation.inference.dicom_seg import check_highdicom
from segmentation.inference.engines import Engine, open_network
from segmentation.inference.own_images import Wish, predict_images
from segmentation.runs.finished import check_min_score, newest_run, open_decision
from segmentation.scoring.decision import Decision, override_decision
from segmentation.scoring.prediction import Network


@checked
class VisualizationConfig:
    """What to report on or predict, and how."""

    run: AnyPath | None = None  # the run's folder; by default the newest finished run in --models-dir
    models_dir: AnyPath = Path("models")  # folder of the runs' folders
    data_dir: Folders = ()  # the run's data, if it has moved
    images: tuple[AnyPath, ...] = ()  # own pictures or folders of them: predict instead of reporting
    output: AnyPath = Path("predictions")  # new folder for predictions on own images; if it exists, predictions-2
    engine: Engine = "keras"  # runtime of the network; onnx and openvino need a run exported by export_model.py
    spacing: Real[1e-4, 1e3] | None = None  # mm between pixels, for own pictures whose file does not contain it
    dicom_seg: bool = False  # for DICOM files also write a DICOM Segmentation, with the file's patient data
    threshold: Real[0, 1] | None = None  # above which a pixel is lesion (docs/settings.md); by default the run's own
    tta: bool = False  # average with the mirrored picture, even if the run does not
    largest_component: bool = False  # keep only the largest lesion, even if the run does not
    min_score: Real[0, 1] | None = None  # lesion score below which a mask is emptied; by default the run's own
    lesion_given: bool = False  # assume that every picture holds a lesion: never return an empty mask

    @model_validator(mode="after")
    def fit_together(self):
        """Refuse settings that contradict each other."""
        if self.engine != "keras" and not self.images:
            raise ValueError(f"--engine {self.engine} is for --images: the report needs Keras")
        if self.dicom_seg and not self.images:
            raise ValueError("--dicom-seg is for --images: it writes what a hospital's viewer shows over them")
        if self.images and self.data_dir:
            raise ValueError("--data-dir is for the report of a run's own images: leave it out with --images")
        if not self.images and (self.spacing is not None or self.output != type(self).output):
            raise ValueError("--spacing and --output are for --images: the report lies in the run's folder")
        if self.lesion_given and (self.threshold is not None or self.min_score is not None):
            raise ValueError("--lesion-given outlines a lesion in every picture: leave --threshold and --min-score out")
        return self


def decision_for(config: VisualizationConfig, run: Path) -> Decision:
    """The run's own decision, with the changes of the command line."""
    own = open_decision(run)
    asked = ("threshold", "tta", "largest_component", "lesion_given", "min_score")
    return override_decision(own, **{name: getattr(config, name) for name in asked})


def make_figure_folder(run: Path) -> None:
    """Make figures/ in the run's folder.

    Raises:
        RunError: figures/ is a link to another folder, whose files the figures would replace.
    """
    if (run / "figures").is_symlink():
        raise RunError(f"{run / 'figures'}: is a link to another folder. Remove it.")
    (run / "figures").mkdir(exist_ok=True)


def main(config: VisualizationConfig) -> int:
    """Report on a run, or predict on own images.

    Returns:
        1 if one of the own images could not be read, else 0.
    """
    if config.dicom_seg:
        check_highdicom()
    run = config.run or newest_run(config.models_dir)
    model, stored = open_network(run, config.engine)
    check_min_score(run, stored, config.min_score)
    if config.images:
        decision = decision_for(config, run)
        segmented_by = run.resolve().name if config.dicom_seg else None
        wish = Wish(config.output, decision, config.spacing, segmented_by)
        return predict_images(model, stored, config.images, wish)
    report_run(config, run, model, stored)
    return 0


def report_run(config: VisualizationConfig, run: Path, model: Network, stored: dict) -> None:
    """Draw the figures and write report.html of a run's test images."""
    import matplotlib  # here, because predictions on own images need neither it nor Keras, which the report imports

    from segmentation.reports.report import draw_figures, load_cases, write_report

    make_figure_folder(run)
    try_writing(run / "report.html")
    folders = find_folders(stored, config.data_dir)
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise DataError(f"{missing[0]}: the run's data is not here. Say where it is with --data-dir.")
    samples = collect(folders).samples
    decision = decision_for(config, run)
    matplotlib.rcdefaults()  # the user's matplotlibrc may require LaTeX
    drawn = load_cases(model, run, samples, decision)
    figures = dict(draw_figures(model, run, drawn))
    for name, figure in tqdm(figures.items(), desc="drawing", unit="figure", leave=False):
        write_atomic(run / "figures" / f"{name}.png", partial(figure.savefig, dpi=110))
    write_report(run, drawn, stored, list(figures))
    print(f"{len(figures)} figures in {run / 'figures'}, all {len(drawn.cases)} test images in {run / 'report.html'}")


if __name__ == "__main__":
    with one_clear_line():
        sys.exit(main(tyro.cli(VisualizationConfig, description=__doc__)))
