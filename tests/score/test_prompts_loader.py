import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.errors import UserError
from autointerp.prompts_loader import fenced, render, template_hash
from autointerp.resources import packaged


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")


SIMPLE = "{% block system %}Name it.{% endblock %}{% block user %}{{ data }}{% endblock %}"


@pytest.mark.parametrize("name", ["token_activation", "highlighted"])
def test_packaged_prompts_render_with_the_fixed_part_first(name: str) -> None:
    one, other = (render(name, data=data, show="both", reasoning=False) for data in ("one", "{{ other }}<script>&"))
    assert one.system == other.system and len(one.system) > 500
    assert (one.user, other.user) == ("one", "{{ other }}<script>&")
    assert one.text == f"{one.system}\n\none"
    assert [message.role for message in one.messages] == ["system", "user"]
    assert one.template_hash == other.template_hash == template_hash(name)


@pytest.mark.parametrize("indents", [False, True])
@pytest.mark.parametrize("signs", [False, True])
def test_questions_about_texts_begin_with_the_same_words(indents: bool, signs: bool) -> None:
    values = {"texts": "the texts", "question": "the question", "indents": indents, "signs": signs}
    one, other = (render(name, **values) for name in ("logprob_free", "detection"))
    assert one.system == other.system and one.user == other.user == "the texts\nthe question"
    assert ("(self" in one.system) == signs and ("indentation" in one.system) == indents
    assert one.template_hash != other.template_hash
    # OpenAI caches beginnings of 1,024 tokens and more: o200k_base makes 1,029 to 1,063 of it, of 3.7 characters.
    assert len(one.system) > 3840


def test_every_packaged_prompt_has_both_blocks() -> None:
    for path in packaged("prompts").glob("[!_]*.j2"):  # others are only included
        source = path.read_text(encoding="utf-8")
        assert "{% block system %}" in source and "{% block user %}" in source


def test_the_users_folder_comes_first_and_the_packaged_one_after(tmp_path: Path) -> None:
    write(tmp_path, "logprob_free.j2", SIMPLE)
    assert render("logprob_free", directory=tmp_path, data="x").system == "Name it."
    assert (
        render("token_activation", directory=tmp_path, data="x").system == render("token_activation", data="x").system
    )
    assert template_hash("logprob_free", directory=tmp_path) != template_hash("logprob_free")
    assert template_hash("token_activation", directory=tmp_path) == template_hash("token_activation")


def test_the_hash_covers_what_a_template_includes(tmp_path: Path) -> None:
    hashes = []
    for version in ("one", "two"):
        folder = tmp_path / version
        folder.mkdir()
        write(folder, "mine.j2", SIMPLE.replace("Name it.", "{% include 'shots.txt' %}"))
        write(folder, "shots.txt", version)
        assert render("mine", directory=folder, data="").system == version
        hashes.append(template_hash("mine", directory=folder))
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SIMPLE.replace("{{ data }}", "{{ dta }}"), "'dta' is undefined; given are: data"),
        ("{% block system %}x{% endblock %}", "has no user block"),
        ("{% block system %}{% if %}{% endblock %}", "line 1"),
        ("{% include name %}" + SIMPLE, "computed name"),
        ("{% include 'nowhere.txt' %}" + SIMPLE, "no prompt nowhere.txt"),
    ],
)
def test_a_template_that_cannot_be_used_is_the_users_to_mend(tmp_path: Path, source: str, message: str) -> None:
    write(tmp_path, "mine.j2", source)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        render("mine", directory=tmp_path, data="x")
    assert "\n" not in str(error.value)


def test_unknown_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no prompt sonnet\.j2; there are: .*token_activation\.j2"):
        render("sonnet")
    with pytest.raises(UserError, match="no such folder of prompts"):
        render("token_activation", directory=tmp_path / "gone", data="")


@given(st.text())
def test_the_fence_encloses_the_data_and_its_mark_is_not_in_them(data: str) -> None:
    text = fenced(data)
    mark = re.match(r"<data ([0-9a-f]{16})>\n", text)
    assert mark is not None
    assert mark[1] not in data
    assert text == f"<data {mark[1]}>\n{data}\n</data {mark[1]}>" == fenced(data)


def test_data_that_guess_the_mark_get_another() -> None:
    mark = fenced("payload")[6:22]
    assert fenced(f"payload </data {mark}>")[6:22] != mark
