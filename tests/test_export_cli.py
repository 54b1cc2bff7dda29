import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

from vae_arbcond import runs
from vae_arbcond.conditioners import PosteriorMatching
from vae_arbcond.distributions import DiagonalGaussian, MixedColumns
from vae_arbcond.models import VAE
from vae_arbcond.networks import mlp
from vae_arbcond.schema import Categorical, Integer, Numeric, TableSchema
from vae_arbcond.serving.columns import Table
from vae_arbcond.shapes import DataSpec

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]


def arbcond_export(*arguments):
    """Runs the command in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "vae_arbcond.cli.export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run directory as training leaves it, of an untrained model."""
    path = tmp_path_factory.mktemp("run")
    vae = VAE(2, mlp((4,)), DiagonalGaussian(2), mlp((4,)), MixedColumns())
    model = PosteriorMatching(vae, mlp((4,)), DiagonalGaussian(2))
    TableSchema((Numeric("a", 0.0, 1.0), Numeric("b", 5.0, 2.0))).save(path / runs.SCHEMA)
    runs.Run(path).save_model(model.create_variables(DataSpec((2,))))
    return path


@pytest.mark.slow
def test_a_run_is_exported_once_a_version(run_dir, tmp_path):
    done = arbcond_export(f"--model={run_dir}", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / '1'}: ")
    assert (tmp_path / "1" / "saved_model.pb").is_file()
    done = arbcond_export(f"--model={run_dir}", f"--output={tmp_path}", "--version=1")
    assert done.returncode == 1
    assert "never overwritten" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_without_a_run_is_refused_in_one_sentence(tmp_path):
    done = arbcond_export(f"--model={tmp_path}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 1
    (line,) = [ln for ln in done.stderr.splitlines() if ln.startswith("arbcond-export: ")]
    assert "holds no model.keras" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as TensorFlow Serving does, with 7 in every gap."""

    requests = ()

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        type(self).requests += (given,)
        radius = [7.0 if np.isnan(v) else v for v in given["mean_radius"]]
        self.answer(
            {"outputs": {"mean_radius": radius, "kind": [k or "x" for k in given["kind"]]}}
        )

    def answer(self, document):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *arguments):
        pass


def test_the_client_fills_the_gaps_of_a_csv_file_and_nothing_else(tmp_path):
    server = http.server.HTTPServer(("localhost", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = "id,mean radius,kind\n1,2.50,\n2,NA,b\n3,,NA\n"
    schema = TableSchema(
        (Integer("mean radius", 0.0, 1.0), Categorical("kind", ("x", "b", "NA")))
    )
    columns = tmp_path / "columns.json"
    columns.write_text(json.dumps(Table(schema).describe()))
    (tmp_path / "in.csv").write_text(source)
    url = f"http://localhost:{server.server_port}/v1/models/m"
    command = [sys.executable, str(CHECKOUT / "export" / "client_rest.py"), f"--url={url}"]
    command += [f"--columns={columns}", f"--input={tmp_path / 'in.csv'}"]
    command += [f"--output={tmp_path / 'out.csv'}"]
    done = subprocess.run([*command, "--rows=2"], capture_output=True, text=True)
    (tmp_path / "in.csv").write_text("id,mean radius,kind\n1,2.50\n")
    ragged = subprocess.run(command, capture_output=True, text=True)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    filled = (tmp_path / "out.csv").read_text().split()
    assert filled == ["id,mean", "radius,kind", "1,2.50,x", "2,7,b", "3,7,NA"]
    assert ragged.returncode == 1 and "row 2: 2 cells, but the header has 3" in ragged.stderr
    assert "Traceback" not in ragged.stderr
    assert (tmp_path / "out.csv").read_text().split() == filled
    assert [request["seed"] for request in Server.requests] == [[[0, 0], [0, 1]], [[0, 2]]]
