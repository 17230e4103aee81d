"""The reference of everything that has a name: presets, normalisations, objectives and so on."""

from __future__ import annotations

from text import table

from wsdino.baselines import BASELINES
from wsdino.config import preset_names, preset_text
from wsdino.explain import from_docstring
from wsdino.model.packaged import PACKAGED
from wsdino.profile.methods import AGGREGATIONS, NORMALISATIONS
from wsdino.screen.check.table import CHECKS
from wsdino.screen.illumination import METHODS
from wsdino.screen.readers import ANY_FOLDER, READERS
from wsdino.simulate.difficulty import DIFFICULTIES
from wsdino.train.objectives import OBJECTIVES

HEAD = """# Named choices

What the options take by name. All tables are made from the code's own.
"""


def page() -> str:
    """Write the page."""
    lines = [HEAD]
    lines += ["## Normalisations", "", "`profile.normalise`, and `--normalise`.", ""]
    lines += table(
        ("name", "features", "options and their defaults"),
        [(f"`{n.name}`", n.help, _options(n.options)) for n in NORMALISATIONS],
    )
    lines += ["## Aggregations", "", "`profile.aggregate`, and `--aggregate`.", ""]
    lines += table(("name", "what it does"), [(f"`{a.name}`", a.help) for a in AGGREGATIONS])
    lines += ["## Objectives", "", "`objective.name`.", ""]
    lines += table(
        ("name", "what it is", "takes partners", "needs a weak label"),
        [(f"`{o.name}`", o.help, _yes(o.takes_partners), _yes(o.needs_label)) for o in OBJECTIVES],
    )
    lines += ["## Baselines", "", "`baselines.names`, and `profile.with`.", ""]
    lines += table(
        ("name", "in tables", "what it is"), [(f"`{b.name}`", b.label, b.help) for b in BASELINES]
    )
    lines += ["## Illumination", "", "`screen.illumination`, and `--illumination`.", ""]
    lines += table(("name", "what is done"), [(f"`{m.name}`", m.description) for m in METHODS])
    lines += ["## Packages with weights", "", "`model.weights`, and MODEL of `wsdino embed`.", ""]
    lines += table(("name", "backbone"), [(f"`{p.name}`", f"`{p.backbone}`") for p in PACKAGED])
    lines += ["## Checks of a screen", ""]
    lines += table(("name", "what is found"), [(c.name, c.help) for c in CHECKS])
    lines += ["## Difficulties of a simulated screen", "", "`wsdino simulate --difficulty`.", ""]
    lines += table(("name", "what it is"), [(f"`{d.name}`", d.meaning) for d in DIFFICULTIES])
    lines += ["## Layouts of screens", "", "The first that recognises SOURCE reads it.", ""]
    lines += [f"- {name}" for name in [*(reader.name for reader in READERS), ANY_FOLDER]]
    lines += ["", "## Presets", ""]
    for name in preset_names():
        lines += [f"### {name}", "", "```yaml", preset_text(name).strip(), "```", ""]
    return from_docstring("\n".join(lines))


def _options(options: object) -> str:
    assert isinstance(options, dict)
    return ", ".join(f"`{name}` ({_value(value)})" for name, value in options.items())


def _value(value: object) -> str:
    return (
        {None: "all", True: "yes", False: "no"}.get(value, str(value))
        if not isinstance(value, float)
        else f"{value:g}"
    )


def _yes(value: object) -> str:
    return "yes" if value else "no"
