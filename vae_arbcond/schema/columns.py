"""One column of a table: the map between the user's cells and one entry of the model's x.

Every class has `to_model(cells) -> (x float32 [N], present bool [N])` and
`to_user(x) -> Series`. The fields are all that is stored in schema.json.
"""

from vae_arbcond.schema.levels import Boolean, Categorical, Ordinal
from vae_arbcond.schema.real import Count, Datetime, Integer, Numeric, Positive

Column = Numeric | Integer | Positive | Count | Boolean | Categorical | Ordinal | Datetime
KINDS = {
    "numeric": Numeric,
    "integer": Integer,
    "positive": Positive,
    "count": Count,
    "boolean": Boolean,
    "categorical": Categorical,
    "ordinal": Ordinal,
    "datetime": Datetime,
}
