"""Write index.json anew from the headers of the checkpoints in this folder."""

from pathlib import Path

from famecli.weights import INDEX, index_text

if __name__ == "__main__":
    folder = Path(__file__).parent
    (folder / INDEX).write_text(index_text(folder), encoding="utf-8")
