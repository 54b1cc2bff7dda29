"""Schemas: the map between the user's units and the model's x. No TensorFlow in here.

A table's column is one entry of x: (value - mean) / scale for numbers and dates, the same of
the logarithm for positive numbers, the number itself for counts, the level's index for
booleans, categories and ordinals. An image's pixel is (value - minimum) / (maximum - minimum).

How a column's kind is inferred (overrides={name: kind} decides otherwise):

| the column's dtype                         | kind        | comes back as                    |
|--------------------------------------------|-------------|----------------------------------|
| bool, boolean                              | boolean     | the same dtype                   |
| int*, uint*, Int*, UInt*, Arrow integers   | integer     | the same dtype                   |
| float64 with gaps, values whole and < 2**53| integer     | int64 (pandas made it a float    |
|                                            |             | only because of the gaps)        |
| any other float*, Float*, Arrow float      | numeric     | the same dtype                   |
| datetime64, with or without zone, Arrow    | datetime    | the same dtype                   |
| category (all categories, their order)     | categorical,| the same categorical dtype       |
|                                            | ordinal if  |                                  |
|                                            | it is so    |                                  |
| str, string, Arrow text                    | categorical | the same dtype                   |
| object of bools / ints / numbers / text    | as its cells| object                           |

Three kinds are never guessed, for they say what the numbers mean:

* 'positive': numbers above 0, skewed (incomes, concentrations). The model sees logarithms, so
  no completion is 0 or negative, and a Normal there is a log-normal here.
* 'count': whole numbers from 0 whose probabilities are wanted (visits, defects).
* 'ordinal': levels with an order (grades, stars). Numbers are ordered by size; for text, list
  the levels in place of the word, lowest first: overrides={'size': ('S', 'M', 'L')}.

An override that the dtype does not fit gives the plain dtype: int64 as 'numeric' comes back
as float64, text as 'numeric' as float64, text as 'datetime' as datetime64. A completed column
has the schema's dtype: int64 data that arrive as float64 or Int64 because of gaps come back as
int64 if the schema was fitted on int64, as Int64 if it was fitted on Int64. Only when that
dtype cannot hold the user's own cells unchanged is it the given table's dtype instead.

What happens with awkward input; every error names the column, the first row, the value, and
what to do:

| input                          | fit (infer)                | use (to_model)            |
|--------------------------------|----------------------------|---------------------------|
| unknown category               | -                          | error; counts as missing  |
|                                |                            | with unknown='missing'    |
| missing column                 | -                          | error                     |
| extra column                   | -                          | error; extra='ignore'     |
|                                |                            | skips it; to_user keeps it|
| text in a numeric column       | error if most or all cells | error                     |
|                                | are numbers or most dates  |                           |
|                                | (which is meant?), else    |                           |
|                                | categorical                |                           |
| "3.5" as text                  | override 'numeric'         | read as 3.5               |
| fraction in an integer column  | error with the override    | allowed; comes back in    |
|                                |                            | the given table's dtype   |
| all-missing row                | allowed                    | allowed: drawn from the   |
|                                |                            | joint                     |
| all-missing column             | error                      | allowed                   |
| infinite value                 | error                      | error                     |
| constant column                | allowed: scale 1           | imputed with the constant |
| duplicate column name          | error                      | error                     |
| no rows or no columns          | error                      | error                     |
| object column mixing types     | error; or 'categorical'    | as the kind it has        |
| more than max_levels values    | error                      | -                         |
| empty text ""                  | a level like any other     | a level like any other    |
"""

import os

from vae_arbcond.schema import serialisation
from vae_arbcond.schema.columns import Column
from vae_arbcond.schema.image import ImageSchema
from vae_arbcond.schema.levels import Boolean, Categorical, Ordinal
from vae_arbcond.schema.real import Count, Datetime, Integer, Numeric, Positive
from vae_arbcond.schema.table import TableSchema

__all__ = [
    "Boolean",
    "Categorical",
    "Column",
    "Count",
    "Datetime",
    "ImageSchema",
    "Integer",
    "Numeric",
    "Ordinal",
    "Positive",
    "TableSchema",
    "load_schema",
]


def load_schema(path: str | os.PathLike) -> TableSchema | ImageSchema:
    """The schema in file `path`, of whichever kind it is.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no schema, or of a version this installation does not read.
    """
    text = serialisation.read_text(path)
    try:
        return _from_document(serialisation.parse(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _from_document(document):
    kinds = {"table": TableSchema, "image": ImageSchema}
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(
            f"A schema's 'kind' is one of {list(kinds)}, got {kind!r}; the file is no "
            f"schema or was written by another release."
        )
    return kinds[kind].from_document(document)
