"""The flags of train_diff.py, and the README's table of them: both made from `TrainConfig`.

python -m training.flags    prints the table
"""

import argparse
from dataclasses import dataclass

from training.config import (
    ALL,
    DC2FUSION,
    REGISTERING,
    SETTINGS,
    SLICEWISE,
    VOLUMETRIC,
    TrainConfig,
    flag,
)
from training.hyperparameters import PUBLISHED
from utils.cli import Parser


@dataclass(frozen=True)
class Group:
    """A heading of --help, what is said below it, and the models that it is for."""

    title: str
    text: str | None = None
    models: tuple[str, ...] = ALL


def published() -> str:
    """Epochs, batch size and learning rate of each model, as lines of text."""
    lines = ["published epochs, batch size and learning rate:"]
    for name, method in PUBLISHED.items():
        lines.append(f"{name:15} {method.epochs:4}  {method.batch_size:4}  {method.lr:g}")
    return "\n".join(lines)


GROUPS = {
    "data": Group("data"),
    "model": Group("model"),
    "network": Group("network", models=VOLUMETRIC),
    "dc2fusion": Group("dc2fusion", models=DC2FUSION),
    "loss": Group("dc2fusion's loss", "1 = MRI, 2 = PET; published weights are 2 and 1", DC2FUSION),
    "slices": Group("slice by slice", "each method has its own loss", SLICEWISE),
    "registration": Group("registration", "one head onto another", REGISTERING),
    "optimisation": Group("optimisation", published()),
    "run": Group("run"),
}
RESUME = "--resume", "go on with this run folder or checkpoint"


def build_parser(description: str) -> Parser:
    """A flag that is not given leaves no value: `TrainConfig.of` knows the model's own."""
    parser = Parser(
        prog="train_diff.py", description=description, argument_default=argparse.SUPPRESS
    )
    headings = {}
    for name, group in GROUPS.items():
        headings[name] = parser.add_argument_group(group.title, group.text)
    for name, setting in SETTINGS.items():
        options = dict(setting.options)
        if isinstance(getattr(TrainConfig, name), bool):
            options["action"] = argparse.BooleanOptionalAction
        text = f"{setting.help} ({default(name)})"
        if setting.models != GROUPS[setting.group].models:
            text = f"{', '.join(setting.models)}: {text}"
        text = text.replace("`", "").replace("%", "%%")  # argparse formats it
        headings[setting.group].add_argument(flag(name), dest=name, help=text, **options)
    headings["run"].add_argument(RESUME[0], metavar="RUN", help=RESUME[1])
    return parser


def default(name: str) -> str:
    """The default of a setting in words."""
    value = getattr(TrainConfig, name)
    if SETTINGS[name].shown is not None:
        return SETTINGS[name].shown
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def table() -> str:
    """All flags in Markdown: flag, default, what it decides and for which models."""
    lines = ["| flag | default | what it decides | of which models |", "|---|---|---|---|"]
    for name, setting in SETTINGS.items():
        models = "all" if setting.models == ALL else ", ".join(setting.models)
        text = setting.help
        if "choices" in setting.options:
            text += ": " + ", ".join(f"`{choice}`" for choice in setting.options["choices"])
        lines.append(f"| `{flag(name)}` | {default(name)} | {text} | {models} |")
    lines.append(f"| `{RESUME[0]}` | none | {RESUME[1]} | all |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
