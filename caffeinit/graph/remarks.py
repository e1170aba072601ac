"""What a net tells of itself that ONNX has no words for: a property of the model in files of `convert`.

Programs that do not know it pass it over. A property that is not as it was written tells nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import onnx

from caffeinit.graph.graph import Graph

KEY = "caffeinit"


@dataclass(frozen=True)
class Remarks:
    """What is told.

    Attributes:
        verdicts: as of a `Graph`: value that judges others, such as a loss -> the values that it judges.
        frozen: arrays of units whose training is switched off.
    """

    verdicts: dict[str, list[str]] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)

    def write(self, model: onnx.ModelProto) -> None:
        """Put the remarks into a model; nothing where there are none."""
        if self != Remarks():
            model.metadata_props.add(key=KEY, value=json.dumps(asdict(self)))

    def verdicts_in(self, graph: Graph) -> dict[str, list[str]]:
        """Return the verdicts that hold in a graph: on what is made before them, and is not the same for all pictures."""
        moving = graph.moving_values()
        place = dict.fromkeys(graph.inputs, -1) | {o: i for i, node in enumerate(graph.nodes) for o in node.output}
        found = {}
        for top, below in self.verdicts.items():
            is_before = top in place and all(place.get(name, len(place)) < place[top] for name in below)
            if is_before and any(name in moving and name not in graph.inputs for name in below):
                found[top] = below
        return found

    @classmethod
    def read(cls, model: onnx.ModelProto) -> Remarks:
        """Return a model's remarks."""
        text = next((entry.value for entry in model.metadata_props if entry.key == KEY), "{}")
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(told, dict):
            return cls()
        verdicts = told.get("verdicts")
        judged = verdicts.items() if isinstance(verdicts, dict) else ()
        return cls({top: names for top, below in judged if (names := _names(below))}, _names(told.get("frozen")))


def _names(told: object) -> list[str]:
    """Return a list of names; an empty one where anything else was told."""
    if not isinstance(told, list) or not all(isinstance(name, str) for name in told):
        return []
    return list(dict.fromkeys(told))
