"""Hugging Face encoders on tiny random models of the real architectures: BERT (BGE) and Qwen3 (embedding)."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from crsearch.config import DenseConfig, EncoderConfig, Settings
from crsearch.encoders import Encoder, build_encoder
from crsearch.encoders.huggingface import HuggingFaceEncoder, control_token_breaker, pool
from crsearch.encoders.published import MINILM_PACKAGE, missing_weights, published_encoder
from crsearch.errors import ModelError
from crsearch.records.types import Context, Item
from crsearch.searchers.dense import availability, dense_searcher

TEXTS = ["red dress", "blue", "a long red silk dress for the summer with a belt", "red dress", "壳"]
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "dress", "silk", "[", "]", "壳"]
QUERY_PROMPT = "Instruct: find products\nQuery:"


def write(file: Path, value: object) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def sentence_files(folder: Path, pooling: str, prompts: dict[str, str]) -> None:
    """What sentence-transformers writes beside a model."""
    kinds = {"0": "", "1": "1_Pooling", "2": "2_Normalize"}
    types = ("Transformer", "Pooling", "Normalize")
    write(
        folder / "modules.json",
        [
            {"idx": int(n), "name": n, "path": path, "type": f"sentence_transformers.models.{kind}"}
            for (n, path), kind in zip(kinds.items(), types, strict=True)
        ],
    )
    flags = {name: name == pooling for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
    write(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": 32, **{f"pooling_mode_{name}": on for name, on in flags.items()}},
    )
    write(folder / "config_sentence_transformers.json", {"prompts": prompts})


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-bge")
    words = {
        word: n
        for n, word in enumerate(
            [*BERT_WORDS, *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"), *"abcdefghijklmnopqrstuvwxyz"]
        )
    }
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    sentence_files(folder, "cls_token", {})
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-qwen3-embedding")
    byte_pieces = {piece: n for n, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(byte_pieces, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    fast.add_tokens(["<think>", "</think>"])  # added, not special, as in Qwen3
    end = fast.convert_tokens_to_ids("<|endoftext|>")
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    fast.padding_side = "left"
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(fast), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, intermediate_size=64, max_position_embeddings=256, initializer_range=0.5,
    )  # fmt: skip
    Qwen3Model(config).save_pretrained(folder)
    sentence_files(folder, "lasttoken", {"query": QUERY_PROMPT, "document": ""})
    return folder


@pytest.fixture
def copy_of(tmp_path):
    """A folder copied, with some of its JSON files changed."""

    def copy(folder: Path, **changes: dict[str, object]) -> Path:
        target = tmp_path / "copy"
        shutil.copytree(folder, target)
        names = {"sentence": "config_sentence_transformers.json", "pooling": "1_Pooling/config.json"}
        for name, change in changes.items():
            file = target / names.get(name, f"{name}.json")
            old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            write(file, {**old, **change})
        return target

    return copy


@pytest.fixture(params=["bert", "qwen"])
def folder(request) -> Path:
    return request.getfixturevalue(request.param)


def test_batch_and_single_give_the_same_unit_vectors(folder):
    encoder = HuggingFaceEncoder(folder, batch_size=4)
    assert isinstance(encoder, Encoder)
    vectors_ND = encoder.encode(TEXTS)
    alone_ND = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert vectors_ND.dtype == np.float32
    assert vectors_ND.shape == (5, encoder.dim) == (5, 32)
    np.testing.assert_allclose(vectors_ND, alone_ND, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=1), np.ones(5), atol=1e-5)
    np.testing.assert_allclose(vectors_ND[0], vectors_ND[3], atol=1e-5)
    assert np.abs(vectors_ND[0] - vectors_ND[1]).max() > 0.01
    assert encoder.encode([]).shape == (0, 32)


def test_bge_folder_takes_the_state_of_the_first_token(bert):
    model = AutoModel.from_pretrained(bert, local_files_only=True).eval()
    state_D = model(torch.tensor([[2, 5, 7, 3]])).last_hidden_state[0, 0].detach().numpy()
    np.testing.assert_allclose(
        HuggingFaceEncoder(bert).encode(["red dress"])[0], state_D / np.linalg.norm(state_D), atol=1e-5
    )


def test_qwen_folder_takes_the_state_of_the_end_token(qwen):
    encoder = HuggingFaceEncoder(qwen)
    ids = encoder._tokenizer("red dress")["input_ids"]
    assert ids[-1] == encoder._tokenizer.convert_tokens_to_ids("<|endoftext|>")
    model = AutoModel.from_pretrained(qwen, local_files_only=True).eval()
    state_D = model(torch.tensor([ids])).last_hidden_state[0, -1].detach().numpy()
    np.testing.assert_allclose(encoder.encode(["red dress"])[0], state_D / np.linalg.norm(state_D), atol=1e-5)


def test_the_instruction_goes_before_queries_only(qwen):
    encoder = HuggingFaceEncoder(qwen)
    asked_ND, shown_ND = encoder.encode(["red dress"], kind="query"), encoder.encode(["red dress"])
    assert np.abs(asked_ND - shown_ND).max() > 0.01
    np.testing.assert_allclose(asked_ND, encoder.encode([QUERY_PROMPT + "red dress"]), atol=1e-5)
    plain = HuggingFaceEncoder(qwen, query_instruction="")
    np.testing.assert_allclose(plain.encode(["red dress"], kind="query"), shown_ND, atol=1e-5)
    other = HuggingFaceEncoder(qwen, query_instruction="find: ")
    np.testing.assert_allclose(other.encode(["x"], kind="query"), encoder.encode(["find: x"]), atol=1e-5)


def test_swapping_the_roles_changes_the_order(qwen):
    """What the instruction is for: a query is not read as an item of the same words."""
    encoder = HuggingFaceEncoder(qwen)
    as_query_ND, as_item_ND = (encoder.encode(["red dress", "blue"], kind=kind) for kind in ("query", "item"))
    assert np.abs(as_query_ND @ as_item_ND.T - as_item_ND @ as_query_ND.T).max() > 1e-3


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_a_prompt_of_the_folder_for_items_goes_before_items(name, qwen, copy_of):
    folder = copy_of(qwen, sentence={"prompts": {"query": "q: ", name: "item: "}})
    plain = HuggingFaceEncoder(qwen, query_instruction="")
    np.testing.assert_allclose(HuggingFaceEncoder(folder).encode(["x"]), plain.encode(["item: x"]), atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_fifty_pad_tokens_on_either_side_change_no_vector(side, qwen):
    """Rotary positions are relative, so padding may stand on the left too; the last token is never padding."""
    encoder = HuggingFaceEncoder(qwen)
    batch = encoder._tokenizer(["a red silk dress"], return_tensors="pt")
    ids_BT, mask_BT = batch["input_ids"], batch["attention_mask"]
    pad_BT = torch.full((1, 50), encoder._tokenizer.pad_token_id)
    parts = [ids_BT, pad_BT], [mask_BT, torch.zeros_like(pad_BT)]
    padded = [torch.cat(pair if side == "right" else pair[::-1], dim=1) for pair in parts]
    torch.testing.assert_close(encoder.embed(*padded), encoder.embed(ids_BT, mask_BT), atol=1e-4, rtol=0)


def test_fifty_pad_tokens_on_the_right_change_no_vector_of_bert(bert):
    encoder = HuggingFaceEncoder(bert)
    ids_BT = torch.tensor([[2, 5, 7, 3]])
    padded_BT = torch.cat([ids_BT, torch.zeros(1, 30, dtype=torch.long)], dim=1)
    plain_BD = encoder.embed(ids_BT, torch.ones_like(ids_BT))
    torch.testing.assert_close(encoder.embed(padded_BT, (padded_BT > 0).long()), plain_BD, atol=1e-5, rtol=0)


def test_a_cosine_of_a_text_with_itself_is_one(folder):
    vectors_ND = HuggingFaceEncoder(folder).encode(TEXTS)
    np.testing.assert_allclose((vectors_ND * vectors_ND).sum(1), np.ones(5), atol=1e-5)


def test_a_given_pooling_wins_over_the_folder(folder):
    vectors = [HuggingFaceEncoder(folder, pooling=how).encode(["red dress"]) for how in ("cls", "mean", "last")]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(vectors[a] - vectors[b]).max() > 0.01


def test_cut_vectors_are_the_first_numbers_normalised_again(folder):
    whole_ND = HuggingFaceEncoder(folder).encode(TEXTS)
    cut = HuggingFaceEncoder(folder, truncate_dim=8)
    assert cut.dim == 8
    expected_ND = whole_ND[:, :8] / np.linalg.norm(whole_ND[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(cut.encode(TEXTS), expected_ND, atol=1e-5)
    with pytest.raises(ModelError, match="truncate_dim = 33"):
        HuggingFaceEncoder(folder, truncate_dim=33)


def test_a_text_longer_than_the_window_is_cut_and_keeps_its_frame(bert):
    encoder = HuggingFaceEncoder(bert)
    np.testing.assert_allclose(encoder.encode(["red " * 500]), encoder.encode(["red " * 38]), atol=1e-5)
    assert np.abs(encoder.encode(["red " * 500]) - encoder.encode(["red " * 37])).max() > 1e-4
    write(bert / "sentence_bert_config.json", {"max_seq_length": 10})
    try:
        shorter = HuggingFaceEncoder(bert)
        np.testing.assert_allclose(shorter.encode(["red " * 500]), shorter.encode(["red " * 8]), atol=1e-5)
    finally:
        (bert / "sentence_bert_config.json").unlink()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("padding", [0, 3, 50])
def test_pooling_finds_its_tokens_beside_padding_of_either_side(side, padding):
    torch.manual_seed(0)
    states_BTD = torch.randn(2, 5, 4)
    junk_BTD = torch.randn(2, padding, 4)
    ones_BT, zeros_BT = torch.ones(2, 5, dtype=torch.long), torch.zeros(2, padding, dtype=torch.long)
    parts = [states_BTD, junk_BTD], [ones_BT, zeros_BT]
    padded_BTD, mask_BT = (torch.cat(pair if side == "right" else pair[::-1], dim=1) for pair in parts)
    torch.testing.assert_close(pool(padded_BTD, mask_BT, "cls"), states_BTD[:, 0])
    torch.testing.assert_close(pool(padded_BTD, mask_BT, "last"), states_BTD[:, -1])
    torch.testing.assert_close(pool(padded_BTD, mask_BT, "mean"), states_BTD.mean(1))


@pytest.mark.parametrize("name", ["bert", "qwen"])
def test_no_text_can_write_a_control_token(name, request):
    encoder = HuggingFaceEncoder(request.getfixturevalue(name))
    tokenizer = encoder._tokenizer
    control = {n for n, token in tokenizer.added_tokens_decoder.items() if str(token) != "[UNK]"}
    names = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    plain = control_token_breaker(tokenizer)
    pieces = st.sampled_from([*names, *(part for name in names for part in (name[:3], name[3:])), "red", " ", "["])

    @settings(max_examples=200)
    @given(st.lists(pieces, max_size=8).map("".join))
    def holds(text):
        assert not control & set(tokenizer(plain(text), add_special_tokens=False)["input_ids"])

    holds()
    assert plain("red dress") == "red dress"
    assert np.abs(encoder.encode([f"red {names[2]} dress"]) - encoder.encode(["red dress"])).max() > 1e-4


def test_a_text_without_tokens_gets_the_zero_vector_and_disturbs_no_other(folder):
    encoder = HuggingFaceEncoder(folder)
    assert np.linalg.norm(encoder.encode([""])) == pytest.approx(1), "the frame of the tokenizer is text enough"
    encoder._tokenizer.backend_tokenizer.post_processor = processors.Sequence([])  # no frame
    vectors_ND = encoder.encode(["", "red dress", ""])
    assert not vectors_ND[[0, 2]].any()
    np.testing.assert_allclose(vectors_ND[1], encoder.encode(["red dress"])[0], atol=1e-5)
    assert not encoder.encode(["", ""]).any()


def test_folders_that_do_not_say_how_to_pool_are_refused(bert, tmp_path):
    def folder_with(**files: object) -> Path:
        for file in bert.iterdir():
            if file.is_file():
                (tmp_path / file.name).write_bytes(file.read_bytes())
        for name, value in files.items():
            write(tmp_path / name.replace("__", "/").replace("_json", ".json"), value)
        return tmp_path

    with pytest.raises(ModelError, match=r"no pooling file; set encoder\.pooling"):
        HuggingFaceEncoder(folder_with())
    assert HuggingFaceEncoder(tmp_path, pooling="cls").dim == 32
    (tmp_path / "1_Pooling").mkdir()
    for settings_of_pooling in ({"pooling_mode_max_tokens": True}, {"pooling_mode": "max"}, {}):
        write(tmp_path / "1_Pooling" / "config.json", settings_of_pooling)
        with pytest.raises(ModelError, match="not one of cls, mean, last"):
            HuggingFaceEncoder(tmp_path)
    write(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    np.testing.assert_allclose(
        HuggingFaceEncoder(tmp_path).encode(TEXTS), HuggingFaceEncoder(bert, pooling="mean").encode(TEXTS), atol=1e-5
    )
    modules = json.loads((bert / "modules.json").read_text())
    write(tmp_path / "modules.json", [*modules, {"path": "3_Dense", "type": "sentence_transformers.models.Dense"}])
    with pytest.raises(ModelError, match="module Dense changes the vectors"):
        HuggingFaceEncoder(tmp_path)
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        HuggingFaceEncoder(tmp_path)


def test_a_folder_that_lower_cases_its_texts_is_obeyed(qwen, copy_of):
    lower = HuggingFaceEncoder(copy_of(qwen, sentence_bert_config={"do_lower_case": True}))
    plain = HuggingFaceEncoder(qwen)
    np.testing.assert_allclose(lower.encode(["RED Dress"]), plain.encode(["red dress"]), atol=1e-5)
    assert np.abs(plain.encode(["RED Dress"]) - plain.encode(["red dress"])).max() > 0.01


def test_a_model_in_a_folder_of_its_own_is_found(bert, tmp_path):
    """As early versions of sentence-transformers wrote it."""
    shutil.copytree(bert, tmp_path / "0_Transformer")
    shutil.move(tmp_path / "0_Transformer" / "1_Pooling", tmp_path / "1_Pooling")
    modules = json.loads((tmp_path / "0_Transformer" / "modules.json").read_text())
    write(tmp_path / "modules.json", [{**modules[0], "path": "0_Transformer"}, *modules[1:]])
    assert missing_weights(str(tmp_path)) is None
    np.testing.assert_allclose(HuggingFaceEncoder(tmp_path).encode(TEXTS), HuggingFaceEncoder(bert).encode(TEXTS))


def test_pooling_without_the_prompt_is_refused_where_there_is_one(qwen, copy_of):
    folder = copy_of(qwen, pooling={"include_prompt": False})
    with pytest.raises(ModelError, match="include_prompt = false"):
        HuggingFaceEncoder(folder)
    HuggingFaceEncoder(folder, query_instruction="")


def test_a_folder_that_lacks_weights_is_refused_instead_of_guessed(bert, copy_of):
    from safetensors.torch import load_file, save_file

    file = copy_of(bert) / "model.safetensors"
    weights = load_file(file)
    without_pooler = {name: w for name, w in weights.items() if not name.startswith("pooler.")}
    save_file(without_pooler, file, metadata={"format": "pt"})
    np.testing.assert_allclose(HuggingFaceEncoder(file.parent).encode(TEXTS), HuggingFaceEncoder(bert).encode(TEXTS))
    del without_pooler["encoder.layer.1.output.dense.weight"]
    save_file(without_pooler, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing \(first: encoder\.layer\.1\.output\.dense\.weight"):
        HuggingFaceEncoder(file.parent)


def test_a_pointer_of_git_lfs_is_no_weights(bert, copy_of):
    file = copy_of(bert) / "model.safetensors"
    assert missing_weights(str(file.parent)) is None
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 95\n")
    assert missing_weights(str(file.parent)) == f"{file}: a pointer of Git LFS, not the weights"
    with pytest.raises(ModelError, match="no encoder that transformers can load"):
        HuggingFaceEncoder(file.parent)
    file.unlink()
    assert missing_weights(str(file.parent)) == f"{file.parent}: no weights in it"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_vectors_of_the_cpu(folder):
    there, here = HuggingFaceEncoder(folder, device="cuda"), HuggingFaceEncoder(folder)
    np.testing.assert_allclose(there.encode([*TEXTS, ""]), here.encode([*TEXTS, ""]), atol=1e-4)


def test_missing_folders_and_folders_without_a_model_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no such folder; set encoder\.path"):
        HuggingFaceEncoder(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no encoder that transformers can load"):
        HuggingFaceEncoder(tmp_path, pooling="cls")


def test_settings_reach_the_encoder(qwen):
    config = EncoderConfig(
        name="huggingface", path=str(qwen), pooling="mean", query_instruction="q: ", truncate_dim=4, batch_size=2
    )
    built = build_encoder(config, [], seed=0)
    direct = HuggingFaceEncoder(qwen, pooling="mean", query_instruction="q: ", truncate_dim=4)
    assert built.name.startswith("tiny-qwen3-embedding")
    np.testing.assert_allclose(built.encode(TEXTS, kind="query"), direct.encode(TEXTS, kind="query"), atol=1e-5)


# ------------------------------------------------------- published encoders


def built(which: str, **config: object) -> Encoder:
    return build_encoder(published_encoder(which, DenseConfig(**config), batch_size=4), [], seed=0)


def test_bge_takes_the_first_token_and_its_prefix_before_queries_only(bert):
    """Whatever the folder says: that of BGE names no prompt."""
    bge, plain = built("bge", bge=str(bert)), HuggingFaceEncoder(bert, pooling="cls")
    np.testing.assert_allclose(bge.encode(TEXTS), plain.encode(TEXTS), atol=1e-5)
    prefixed_ND = plain.encode([f"为这个句子生成表示以用于检索相关文章：{text}" for text in TEXTS])
    np.testing.assert_allclose(bge.encode(TEXTS, kind="query"), prefixed_ND, atol=1e-5)
    assert np.abs(bge.encode(TEXTS, kind="query") - bge.encode(TEXTS)).max() > 0.01
    without = built("bge", bge=str(bert), bge_instruction="")
    np.testing.assert_allclose(without.encode(TEXTS, kind="query"), plain.encode(TEXTS), atol=1e-5)


def test_qwen3_takes_the_last_token_and_its_instruction_before_queries_only(qwen):
    task = "Given a shopping query, retrieve products that the user wants to buy"
    encoder = built("qwen3", qwen3=str(qwen), qwen3_task=task, qwen3_dim=8)
    plain = HuggingFaceEncoder(qwen, pooling="last", truncate_dim=8)
    assert encoder.dim == 8
    np.testing.assert_allclose(encoder.encode(TEXTS), plain.encode(TEXTS), atol=1e-5)
    prefixed_ND = plain.encode([f"Instruct: {task}\nQuery:{text}" for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS, kind="query"), prefixed_ND, atol=1e-5)


def test_a_dense_system_runs_from_the_folder_of_the_settings(bert, qwen):
    items = [Item(item_id=f"i{row}", title=title) for row, title in enumerate(TEXTS)]
    settings = Settings.model_validate({"dense": {"bge": str(bert), "bge_instruction": "", "qwen3": str(qwen)}})
    for name in ("dense-bge", "dense-qwen3", "dense-qwen3-history"):
        assert availability(name, settings) is None
        (answer,) = dense_searcher(name, settings, items).search([CONTEXT], 10)
        assert sorted(answer.item_ids) == [item.item_id for item in items]
        assert answer.item_ids.index("i0") + 1 == answer.item_ids.index("i3"), "items of one text are equal: by row"
    (answer,) = dense_searcher("dense-bge", settings, items).search([CONTEXT], 2)
    assert answer.item_ids == ("i0", "i3"), "the text itself, without an instruction before it"
    assert answer.scores == pytest.approx((1, 1), abs=1e-5)


CONTEXT = Context(search_id="s", user_id="u", query="red dress")


@pytest.mark.skipif(find_spec(MINILM_PACKAGE) is None, reason="pip install 'crsearch[minilm]'")
def test_minilm_of_the_package_knows_what_words_mean():
    titles = ["wooden dining table", "running shoes for men", "smartphone cover"]
    items = [Item(item_id=title, title=title) for title in titles]
    assert availability("dense-minilm", Settings()) is None
    searcher = dense_searcher("dense-minilm", Settings(), items)
    contexts = [Context(search_id=q, user_id="u", query=q) for q in ("sneakers", "phone case", "furniture")]
    assert [a.item_ids[0] for a in searcher.search(contexts, 1)] == [titles[1], titles[2], titles[0]]


@pytest.mark.filterwarnings("ignore")  # of the library about its own older files
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sentence": {"prompts": {"query": "q: ", "document": "item: ", "corpus": "c: "}}},
        {"sentence_bert_config": {"max_seq_length": 6, "do_lower_case": True}},
    ],
    ids=["as it is", "document prompt", "short and lower case"],
)
def test_vectors_are_those_of_sentence_transformers(folder, changes, copy_of):
    library = pytest.importorskip("sentence_transformers", exc_type=ImportError)
    path = copy_of(folder, **changes)
    theirs = library.SentenceTransformer(str(path), device="cpu", local_files_only=True)
    ours = HuggingFaceEncoder(path)
    texts = [*TEXTS, "RED Dress", "a dress of silk " * 20]
    np.testing.assert_allclose(ours.encode(texts), theirs.encode_document(texts), atol=1e-5)
    np.testing.assert_allclose(ours.encode(texts, kind="query"), theirs.encode_query(texts), atol=1e-5)
