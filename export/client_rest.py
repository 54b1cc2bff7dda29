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
import sys
import urllib.error
import urllib.request


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
    inputs = {c["tensor"]: [_cell(row[c["name"]], c) for row in rows] for c in columns}
    inputs["num_samples"] = [samples] * len(rows)
    inputs["seed"] = [[0, first + i] for i in range(len(rows))]
    outputs = predict(url, inputs)
    return [
        {**row, **{c["name"]: outputs[c["tensor"]][i] for c in columns if not row[c["name"]]}}
        for i, row in enumerate(rows)
    ]


def _cell(text: str, column: dict):
    if column["dtype"] == "string":
        return text or column["missing"]
    try:
        return float(text) if text else float("nan")
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
            rows = list(csv.DictReader(file))
        if not rows:
            raise ClientError(f"{flags.input} has no rows")
        with open(flags.columns, encoding="utf-8") as file:
            columns = json.load(file)
        filled = []
        for start in range(0, len(rows), flags.rows):
            part = rows[start : start + flags.rows]
            filled += complete(flags.url, part, columns, flags.num_samples, start)
        with open(flags.output, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(filled)
    except (ClientError, OSError) as error:
        sys.exit(f"client_rest: {error}")


if __name__ == "__main__":
    main()
