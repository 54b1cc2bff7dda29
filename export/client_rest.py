"""Completes a CSV table with a model behind TensorFlow Serving; standard library only.

    tensorflow_model_server --rest_api_port=8501 --model_name=breast_cancer \
      --model_base_path=$PWD/exported/breast_cancer
    python export/client_rest.py --url=http://localhost:8501/v1/models/breast_cancer \
      --columns=exported/breast_cancer/1/assets.extra/columns.json \
      --input=holes.csv --output=filled.csv

Sends the rows in requests of --rows each and writes the table with its empty cells filled;
columns that the model does not know stay as they are.
"""

import argparse
import csv
import json
import os
import sys
import urllib.error
import urllib.request

# As arbcond-impute reads a CSV file.
MISSING = ("", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NaT", "null", "NULL")


class ClientError(Exception):
    """What the user or the server did wrong, in one sentence."""


def predict(url: str, inputs: dict) -> dict:
    """The model's outputs by name; columnar request.

    NaN is sent as it is: TensorFlow Serving reads and writes it, standard JSON or not.
    """
    data = json.dumps({"inputs": inputs}).encode()
    try:
        with urllib.request.urlopen(f"{url}:predict", data, timeout=60) as answer:
            return json.load(answer)["outputs"]
    except urllib.error.HTTPError as error:
        raise ClientError(f"the server refused: {error.read().decode()}") from None
    except urllib.error.URLError as error:
        raise ClientError(f"{url} does not answer ({error.reason}); is it running?") from None


def complete(url: str, rows: list[dict], columns: list[dict], samples: int, first: int):
    """The rows with their empty cells filled; row i is drawn with the seed [0, first + i]."""
    lacking = [c["name"] for c in columns if c["name"] not in rows[0]]
    if lacking:
        raise ClientError(
            f"the table has no column {lacking}; add it, with empty cells if it is unknown"
        )
    by_name = {c["name"]: c for c in columns}
    inputs = {c["tensor"]: [_cell(row[c["name"]], c) for row in rows] for c in columns}
    inputs["num_samples"] = [samples] * len(rows)
    inputs["seed"] = [[0, first + i] for i in range(len(rows))]
    outputs = predict(url, inputs)
    return [
        {
            name: _text(outputs[by_name[name]["tensor"]][i], by_name[name])
            if name in by_name and _is_gap(text, by_name[name])
            else text
            for name, text in row.items()
        }
        for i, row in enumerate(rows)
    ]


def _is_gap(text: str, column: dict) -> bool:
    """Whether the cell is missing; a word for that which is one of the levels is not."""
    return text in MISSING and text not in (column["levels"] or ())


def _text(value, column: dict) -> str:
    return str(int(value)) if column["whole"] else str(value)


def _cell(text: str, column: dict):
    if column["dtype"] == "string":
        return column["missing"] if _is_gap(text, column) else text
    try:
        return float("nan") if _is_gap(text, column) else float(text)
    except ValueError:
        raise ClientError(f"{text!r} is no number; correct or empty that cell") from None


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True, help="http://HOST:8501/v1/models/NAME")
    parser.add_argument("--columns", required=True, help="columns.json of the export")
    parser.add_argument("--input", required=True, help="CSV file with a header")
    parser.add_argument("--output", required=True, help="CSV file to write")
    parser.add_argument("--num_samples", type=int, default=100)
    parser.add_argument("--rows", type=int, default=100, help="rows in one request")
    flags = parser.parse_args()
    try:
        with open(flags.input, newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file)) or [[]]
        if not lines:
            raise ClientError(f"{flags.input} has no rows")
        for number, line in enumerate(lines, 2):
            if len(line) != len(header):
                raise ClientError(
                    f"{flags.input}, row {number}: {len(line)} cells, but the header has "
                    f"{len(header)}; correct the row"
                )
        rows = [dict(zip(header, line, strict=True)) for line in lines]
        with open(flags.columns, encoding="utf-8") as file:
            columns = json.load(file)
        filled = []
        for start in range(0, len(rows), flags.rows):
            part = rows[start : start + flags.rows]
            filled += complete(flags.url, part, columns, flags.num_samples, start)
        # Under another name first: the output is the old file or the whole new one.
        temporary = f"{flags.output}.partial"
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, header, lineterminator="\n")
            writer.writeheader()
            writer.writerows(filled)
        os.replace(temporary, flags.output)
    except (ClientError, OSError) as error:
        sys.exit(f"client_rest: {error}")


if __name__ == "__main__":
    main()
