"""Every engine that is installed computes what it should, in a worker process of its own."""

import numpy as np
import pytest

from quantsr.bench import measure, random_network
from quantsr.bench.cases import Network, cut, samples
from quantsr.bench.engines import engines
from quantsr.bench.job import Job

FAITHFUL = {"openvino-qdq", *(name for name in engines() if name.startswith("quantsr"))}
# Relative to the spread of the result. int8 and bfloat16 lose what they lose; a wrong graph loses everything.
BOUNDS = {"fast": 0.05, "int8": 0.2, "bf16": 0.1, "fp32": 1e-4, "torch": 1e-4, "quantsr": 1e-4, "qdq": 0.02}
SLOW = {"torch-compiled", "torch-bf16", "openvino-int8", "onnxruntime-int8", "ncnn-int8"}


@pytest.fixture(scope="module")
def network():
    return Network.of(random_network.network(blocks=1, upsampler="direct"), None)


@pytest.mark.parametrize("part", ["network", "layer"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in engines()])
def test_results(tmp_path, monkeypatch, network, name, part):
    monkeypatch.setattr(random_network, "LAYERS", 2)
    if missing := engines()[name].missing():
        pytest.skip(f"needs {', '.join(missing)}")
    picture = random_network.picture(14, 21)
    piece = cut(network, part, "as-is", picture, 0)
    piece.save(tmp_path / "network", samples(random_network.picture(64, 96)))
    job = Job(name, tmp_path / "network", tmp_path, tmp_path / "image.npy", tmp_path / "result.npy", 2)
    np.save(job.image, piece.input(picture))
    if engines()[name].build:
        measure.build(job, None)
    measured, failed = measure.measure([job], 2, None, lambda: None)
    assert failed == {}
    assert len(measured[name].cpu) == len(measured[name].wall) == 2
    assert 5 < measured[name].peak_mib < 4096
    wanted = (piece.low if name in FAITHFUL else piece.plain).run(piece.input(picture))
    got = np.load(job.output)
    bound = next(bound for key, bound in BOUNDS.items() if key in name)
    assert got.shape == wanted.shape
    assert np.sqrt(np.mean((got - wanted) ** 2)) < bound * wanted.std()


def test_a_worker_that_fails_is_named_with_its_last_words(tmp_path):
    job = Job("quantsr", tmp_path / "absent", tmp_path, tmp_path / "image.npy", tmp_path / "result.npy", 1)
    measured, failed = measure.measure([job], 1, None, lambda: None)
    assert measured == {}
    assert "absent" in failed["quantsr"]
    with pytest.raises(measure.WorkerError):
        measure.build(Job("openvino-qdq", tmp_path / "absent", tmp_path, job.image, job.output, 1), None)
