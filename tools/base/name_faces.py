"""Say of every drawn face whether it is a woman's, a man's or a child's, and who of them is old.

    python tools/base/name_faces.py FACES

Runs in the environment of draw_faces.py. FACES is what that wrote; writes FACES/names.tsv.

328 of the first 360 faces were labelled by eye (labels.tsv; the others were unclear). A face's style tells the rest by
logistic regression. In ten-fold cross-validation it was sure of 92 %, 91 % and 90 %, of which 98.5 % of women and men,
96.3 % of children and others, and 93.4 % of old and young were right.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

LABELS = Path(__file__).with_name("labels.tsv")
REGULARISATION = 0.1  # C: of 0.001 to 0.1 the one that is sure of most
SURE = 0.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faces", type=Path)
    faces = parser.parse_args().faces
    styles = np.load(faces / "styles.npy")
    styles = (styles - styles.mean(axis=0)) / styles.std(axis=0)
    labels = list(csv.DictReader(LABELS.read_text().splitlines(), delimiter="\t"))
    adults = [row for row in labels if row["noun"] != "child"]
    child = probability(styles, labels, [row["noun"] == "child" for row in labels])
    woman = probability(styles, adults, [row["noun"] == "woman" for row in adults])
    old = probability(styles, adults, [row["age"] == "old" for row in adults])
    with open(faces / "names.tsv", "w", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["face", "noun", "age"])
        for i, (a, b, c) in enumerate(zip(child, woman, old, strict=True)):
            table.writerow([f"{i:06d}", noun(a, b), "old" if c >= SURE and a <= 1 - SURE else ""])


def probability(styles: np.ndarray, rows: list[dict], labels: list[bool]) -> np.ndarray:
    """Of every face, that it has the label that these rows have."""
    model = LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=2000)
    model.fit(styles[[int(row["face"]) for row in rows]], labels)
    return model.predict_proba(styles)[:, 1]


def noun(child: float, woman: float) -> str:
    """What is said of a face when that much is sure; else it is a person's."""
    if child >= SURE:
        return "child"
    if child > 1 - SURE or 1 - SURE < woman < SURE:
        return "person"
    return "woman" if woman >= SURE else "man"


if __name__ == "__main__":
    main()
