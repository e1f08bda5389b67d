"""Rewrite index.json and the model cards from the headers of the checkpoints in this folder."""

from pathlib import Path

from famecli.checkpoints.card import model_card
from famecli.checkpoints.description import describe
from famecli.checkpoints.index import INDEX, entry_of, index_text


def card_text(path: Path) -> str:
    """Return the model card of a checkpoint."""
    return model_card(describe(path), licence=entry_of(path).licence.lower())


if __name__ == "__main__":
    folder = Path(__file__).parent
    (folder / INDEX).write_text(index_text(folder), encoding="utf-8")
    for path in folder.glob("*.safetensors"):
        path.with_suffix(".md").write_text(card_text(path), encoding="utf-8")
