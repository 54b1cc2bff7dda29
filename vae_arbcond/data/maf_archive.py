"""From the files of the MAF archive to training, validation and test rows.

The archive (https://zenodo.org/record/1161203) holds tables that each user prepares alike;
this is how Papamakarios et al. (MAF, 2017, https://arxiv.org/abs/1705.07057), and those who
compare with them, do it. The last tenth of the rows is the test part and the last tenth of the
rest the validation part, where the archive does not say otherwise.
"""

import pathlib

import h5py
import numpy as np
import pandas as pd

Parts = list[np.ndarray]  # train, val and test: float [N, D]

TOO_ALIKE = 0.98  # GAS: of two columns that correlate more, the first goes
MOST_REPEATS = 5  # HEPMASS: how often the smallest value of a column may occur


def power(path: pathlib.Path) -> Parts:
    """data.npy [N, 8]: shuffled, columns 1 and 3 dropped, readings blurred by their steps."""
    rows = np.load(path, allow_pickle=False)
    rng = np.random.RandomState(42)  # What everybody's rows and noise were drawn with.
    rng.shuffle(rows)
    rows = np.delete(rows, [1, 3], axis=1).astype(np.float64)
    voltage = 0.01 * rng.rand(len(rows))
    active_power = 0.001 * rng.rand(len(rows))
    rows[:, 0] += active_power
    rows[:, 1] += voltage
    rows[:, 2:5] += rng.rand(len(rows), 3)  # The three meters; the time of day stays exact.
    return _normalised(*_in_order(rows))


def gas(path: pathlib.Path) -> Parts:
    """ethylene_CO.parquet: the sensors, without those that repeat another."""
    table = pd.read_parquet(path).drop(columns=["Meth", "Eth", "Time"])
    while True:
        partners = (table.corr() > TOO_ALIKE).sum(axis=1)  # Each column is one of its own.
        alike = partners.index[partners > 1]
        if not len(alike):
            break
        table = table.drop(columns=alike[0])
    table = (table - table.mean()) / table.std()  # By all rows, and before the split.
    return _in_order(table.to_numpy())


def hepmass(train_path: pathlib.Path, test_path: pathlib.Path) -> Parts:
    """1000_train.csv and 1000_test.csv: signals only, columns with repeated values dropped."""
    train = pd.read_csv(train_path, index_col=False)
    test = pd.read_csv(test_path, index_col=False)
    # The first column is the label; the last one of the test file is no measurement.
    train = train[train.iloc[:, 0] == 1].iloc[:, 1:]
    test = test[test.iloc[:, 0] == 1].iloc[:, 1:-1]
    mean, scale = train.mean(), train.std()
    train, test = ((part - mean) / scale for part in (train, test))
    train, test = train.to_numpy(), test.to_numpy()
    keep = (train == train.min(0)).sum(0) <= MOST_REPEATS
    train, test = train[:, keep], test[:, keep]
    num_valid = int(0.1 * len(train))
    return [train[:-num_valid], train[-num_valid:], test]


def miniboone(path: pathlib.Path) -> Parts:
    """data.npy [N, 43], the rows in their order."""
    return _normalised(*_in_order(np.load(path, allow_pickle=False)))


def bsds300(path: pathlib.Path) -> Parts:
    """BSDS300.hdf5: the three parts as they are."""
    with h5py.File(path, "r") as file:
        return [file[part][...] for part in ("train", "validation", "test")]


FILES = {
    "power": ("data.npy",),
    "gas": ("ethylene_CO.parquet",),
    "hepmass": ("1000_train.csv", "1000_test.csv"),
    "miniboone": ("data.npy",),
    "bsds300": ("BSDS300.hdf5",),
}
FOLDERS = {name: name for name in FILES} | {"bsds300": "BSDS300"}  # in the archive
RECIPES = {
    "power": power,
    "gas": gas,
    "hepmass": hepmass,
    "miniboone": miniboone,
    "bsds300": bsds300,
}


def _in_order(rows: np.ndarray) -> Parts:
    num_test = int(0.1 * len(rows))
    num_valid = int(0.1 * (len(rows) - num_test))
    return np.split(rows, [len(rows) - num_test - num_valid, len(rows) - num_test])


def _normalised(train: np.ndarray, valid: np.ndarray, test: np.ndarray) -> Parts:
    """By the mean and standard deviation of the training and validation rows together."""
    seen = np.concatenate([train, valid])
    mean, scale = seen.mean(0), seen.std(0)
    return [(part - mean) / scale for part in (train, valid, test)]
