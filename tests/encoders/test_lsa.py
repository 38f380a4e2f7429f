"""LSA: exact on small cases, the same bits anywhere, files without pickle."""

import subprocess
import sys

import numpy as np
import pytest

from crsearch.config import EncoderConfig
from crsearch.encoders import Encoder, LsaEncoder, build_encoder, words
from crsearch.encoders.blas import limit_blas
from crsearch.errors import DataError

TEXTS = ["red dress", "blue dress", "red shoe leather men", "leather belt men", "blue jeans"]
CHINESE = ["苹果手机壳 透明", "华为手机壳 硅胶", "真丝连衣裙 红色", "雪纺连衣裙 蓝色", "手机充电器"]


def long_texts(num: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(f"w{n}" for n in rng.integers(200, size=6)) for _ in range(num)]


@pytest.mark.parametrize("texts", [TEXTS, CHINESE], ids=["English", "Chinese"])
def test_with_full_width_cosines_are_those_of_tf_idf(texts):
    from sklearn.feature_extraction.text import TfidfVectorizer

    encoder = LsaEncoder.fit(texts, dim=64, seed=0)
    assert encoder.dim == len(texts)
    vectors_ND = encoder.encode(texts)
    tfidf_NV = TfidfVectorizer(analyzer=words).fit_transform(texts)
    np.testing.assert_allclose(vectors_ND @ vectors_ND.T, (tfidf_NV @ tfidf_NV.T).toarray(), atol=1e-5)


def test_the_sparse_solver_finds_the_best_directions():
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = long_texts(300)
    encoder = LsaEncoder.fit(texts, dim=10, seed=0)
    _, singular, vt = np.linalg.svd(TfidfVectorizer(analyzer=words).fit_transform(texts).toarray())
    assert singular[9] - singular[10] > 1e-4, "the ten directions are not well defined: another seed for the texts"
    np.testing.assert_allclose(np.abs(encoder._basis.T @ vt[:10].T), np.eye(10), atol=1e-4)


def test_texts_on_one_subject_are_nearer_than_others():
    vectors_ND = LsaEncoder.fit(CHINESE, dim=3, seed=0).encode(CHINESE)
    cosine_NN = vectors_ND @ vectors_ND.T
    assert cosine_NN[0, 1] > cosine_NN[0, 2]
    assert cosine_NN[2, 3] > cosine_NN[2, 1]


def test_vectors_have_length_one_or_zero_where_no_word_is_known():
    encoder = LsaEncoder.fit(TEXTS, dim=3, seed=0)
    vectors_ND = encoder.encode(["red dress", "", "unknown words", "!!"], kind="query")
    assert vectors_ND.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=1), [1, 0, 0, 0], atol=1e-6)
    assert encoder.encode([]).shape == (0, 3)


def test_signs_are_fixed_largest_weight_up():
    encoder = LsaEncoder.fit(long_texts(300), dim=10, seed=0)
    basis_VD = encoder._basis
    assert (basis_VD[np.abs(basis_VD).argmax(0), np.arange(10)] > 0).all()


def test_the_number_of_threads_and_the_batch_change_no_bit():
    texts = long_texts(300)
    with limit_blas(1):
        one = LsaEncoder.fit(texts, dim=10, seed=0).encode(texts)
    with limit_blas(4):
        encoder = LsaEncoder.fit(texts, dim=10, seed=0)
        four = encoder.encode(texts)
        alone = np.concatenate([encoder.encode([text]) for text in texts])
    assert (one == four).all()
    assert (one == alone).all()


@pytest.mark.parametrize("dim", [2, 64])
def test_one_text_and_identical_texts_have_vectors(dim):
    for texts in (["red dress"], ["red dress"] * 5):
        vectors_ND = LsaEncoder.fit(texts, dim=dim, seed=0).encode(texts)
        assert np.isfinite(vectors_ND).all()
        np.testing.assert_allclose(vectors_ND @ vectors_ND[0], np.ones(len(texts)), atol=1e-6)


def test_texts_without_any_word_are_refused():
    with pytest.raises(DataError, match="found no word in 2 texts"):
        LsaEncoder.fit(["", "!!"], dim=4, seed=0)


def test_saved_encoder_gives_the_same_bits(tmp_path):
    encoder = LsaEncoder.fit(CHINESE, dim=4, seed=0)
    encoder.save(tmp_path)
    loaded = LsaEncoder.load(tmp_path)
    assert loaded.dim == encoder.dim
    assert (loaded.encode([*CHINESE, "手机 unknown"]) == encoder.encode([*CHINESE, "手机 unknown"])).all()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lsa.json", "lsa.safetensors"]


def test_missing_broken_or_mixed_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no readable lsa encoder"):
        LsaEncoder.load(tmp_path)
    LsaEncoder.fit(CHINESE, dim=4, seed=0).save(tmp_path)
    LsaEncoder.fit(TEXTS, dim=4, seed=0).save(tmp_path / "other")
    (tmp_path / "other" / "lsa.json").replace(tmp_path / "lsa.json")
    with pytest.raises(DataError, match="different encoders"):
        LsaEncoder.load(tmp_path)
    (tmp_path / "lsa.safetensors").write_bytes(b"junk")
    with pytest.raises(DataError, match="no readable lsa encoder"):
        LsaEncoder.load(tmp_path)


def test_settings_name_the_encoder():
    encoder = build_encoder(EncoderConfig(name="lsa", dim=3), TEXTS, seed=0)
    assert isinstance(encoder, Encoder)
    assert (encoder.name, encoder.dim) == ("lsa", 3)


def test_importing_the_package_stays_light():
    code = "import sys, crsearch.encoders; print({'torch', 'transformers', 'sklearn', 'rjieba'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
