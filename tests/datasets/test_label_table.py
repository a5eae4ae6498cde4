import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_classifier.datasets import label_table
from image_classifier.datasets.label_table import ImageIndex, parse_table, read_labels
from image_classifier.errors import DataError

CLASSES = ("cat", "dog")
IMAGES = ImageIndex({index: f"images/{index}.png" for index in range(30)})


def rows(header, line, count=30):
    """Text of a table with a line for each image; `line` has {i} for its number and {c} for its class."""
    return "\n".join([header, *(line.format(i=i, c=CLASSES[i % 2]) for i in range(count))])


def labels_of(content, name="labels.csv", column=""):
    data = content.encode() if isinstance(content, str) else content
    return read_labels(parse_table(name, data), IMAGES, "", column)


def in_parquet(**columns):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", rows("filename,label", "{i}.png,{c}")),
        ("labels.csv", rows("id,breed", "{i},{c}")),
        ("labels.csv", rows("image_path;species", '"images/{i}.png";"{c}"')),
        ("labels.csv", rows("sep=;\npath;Class", "{i}.PNG;{c}")),
        ("labels.tsv", rows("Image Name\tcategory", "{i}.jpg\t{c}")),
        ("labels.csv", rows("path,target", r"C:\data\images\{i}.png,{c}")),
        ("labels.csv", rows("path,target", "/kaggle/input/pets/images/{i}.png,{c}")),
        ("labels.csv", rows("0.png,cat", "{i}.png,{c}")),
        ("labels.csv", b"\xef\xbb\xbf" + rows("id,dx,age,sex", "{i},{c},4{i},m").encode()),
        ("labels.csv", rows("id,dx", "{i},{c}").encode("utf-16")),
        ("labels.csv", rows("i,image_id,label,x", "{i},images/{i},{c},{i}.5")),
        ("labels.csv", rows("file,looks", "{i}.png,{c}")),
        ("labels.txt", rows("0.png cat", "{i}.png {c}")),
        ("labels.jsonl", rows("", '{{"file_name": "{i}.png", "label": "{c}", "tags": ["x"]}}')),
        ("labels.json", json.dumps([{"file_name": f"{i}.png", "label": CLASSES[i % 2]} for i in range(30)])),
        ("labels.json", json.dumps({f"{i}.png": CLASSES[i % 2] for i in range(30)})),
        (
            "metadata.parquet",
            in_parquet(file_name=[f"{i}.png" for i in range(30)], label=[CLASSES[i % 2] for i in range(30)]),
        ),
    ],
)
def test_labels_are_read_from_tables_of_many_kinds(name, content):
    found = labels_of(content, name)
    assert found.labels == {i: CLASSES[i % 2] for i in range(30)}
    assert (found.missing, found.contradicting, found.unlabeled) == ([], frozenset(), frozenset())


def test_names_of_classes_come_before_their_numbers():
    content = "file,class_id,class_name\n" + "\n".join(f"{i}.png,{i % 2},{CLASSES[i % 2]}" for i in range(30))
    assert labels_of(content).column == "column 'class_name'"


def test_text_that_is_not_utf8_is_read_in_the_code_page_of_windows():
    found = labels_of(rows("Datei,class", "{i}.png,Bär {c}").encode("cp1252"))
    assert set(found.labels.values()) == {"Bär cat", "Bär dog"}


def test_one_hot_columns_are_classes():
    found = labels_of("image,MEL,NV,age\n" + "\n".join(f"{i},{i % 2}.0,{1 - i % 2}.0,{i}" for i in range(30)))
    assert found.column == "the one-hot columns"
    assert found.labels == {i: ("NV", "MEL")[i % 2] for i in range(30)}


def test_whole_numbers_lose_their_decimals():
    assert set(labels_of("id,label\n" + "\n".join(f"{i},{i % 3}.0" for i in range(30))).labels.values()) == set("012")


def test_names_of_columns_and_classes_are_in_one_line():
    found = labels_of('id,"class\nname"\n' + "\n".join(f'{i},"big\n{CLASSES[i % 2]}"' for i in range(30)))
    assert (found.column, set(found.labels.values())) == ("column 'class name'", {"big cat", "big dog"})


def test_a_column_of_parts_divides_the_images():
    found = labels_of("id,label,split\n" + "\n".join(f"{i},x,{('train', 'eval')[i % 2]}" for i in range(30)))
    assert found.parts == {i: ("train", "test")[i % 2] for i in range(30)}


def test_a_column_of_folds_is_not_one_of_parts():
    assert labels_of("id,label,fold\n" + "\n".join(f"{i},x,{i % 5}" for i in range(30))).parts == {}


def test_rows_without_an_image_or_a_label_and_contradictions_are_told_apart():
    found = labels_of(rows("id,label", "{i},{c}", 20) + "\n3,cat\n4,cat\n98,cat\n20,\n21,NaN")
    assert (found.contradicting, found.missing, found.unlabeled) == ({3}, ["98"], {20, 21})
    assert 3 not in found.labels
    assert found.labels[4] == "cat"


@pytest.mark.parametrize(
    "content", [rows("name,label", "other{i}.png,{c}"), "id,class\n" + "\n".join(f"{i},c{i}" for i in range(2))]
)
def test_a_table_about_other_things_is_no_table_of_labels(content):
    assert labels_of(content) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            rows("id,farbe,form", "{i},{c},x{c}") + "\n0,red,round",
            r"not clear which column of labels.csv holds the labels",
        ),
        (rows("id,category,species", "{i},a,{c}"), r"choose one with --label-column \(category, species\)"),
        (rows("id", "{i}"), "has only file names, in the column 'id', but no labels"),
        (
            rows("id,target", "{i},0.{i}7"),
            r"column 'target' .* 30 different numbers, such as 0.07: a quantity to estimate",
        ),
        (
            rows("id,score", "{i},0.{i}7"),
            r"column 'score' .* 30 different numbers, such as 0.07: a quantity to estimate",
        ),
        (rows("id,label", "{i},n{i}"), "has 30 different values for 30 images, so it does not hold classes"),
        (rows("id,class,xmin,ymin,xmax,ymax", "{i},{c},1,2,3,4"), "holds boxes around objects, for object detection"),
        (rows("id,label", "{i},{c}\n{i},other"), "has several labels for 30 images: only one class per image"),
    ],
)
def test_a_table_without_one_plain_label_per_image_is_refused(content, message):
    with pytest.raises(DataError, match=message) as caught:
        labels_of(content)
    assert "\n" not in str(caught.value)


def test_the_label_column_can_be_named():
    content = rows("id,category,species", "{i},a,{c}")
    assert set(labels_of(content, column="species").labels.values()) == set(CLASSES)
    with pytest.raises(DataError, match="labels.csv has no column 'breed'; it has id, category, species"):
        labels_of(content, column="breed")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.json", b"[" * 100_000, "cannot be read"),
        ("labels.json", b"[1, 2]", "cannot be read: it is not a list of objects"),
        ("labels.jsonl", b"{", "cannot be read"),
        ("labels.parquet", b"PAR1 and not more", "cannot be read"),
        ("labels.csv", b"\n\n", "cannot be read: it is empty"),
        ("labels.xlsx", b"PK", "is a spreadsheet: save it as CSV"),
        ("labels.json", json.dumps([{str(n): 1} for n in range(1000)]).encode(), "rows have very different columns"),
    ],
)
def test_damaged_and_other_files_are_refused(name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        parse_table(name, content)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_too_large_for_memory_is_refused(monkeypatch):
    monkeypatch.setattr(label_table, "MAX_TABLE_BYTES", 2**20)
    repeated = in_parquet(label=[1] * (2**20 + 1))
    assert len(repeated) < 2**20
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        parse_table("labels.parquet", repeated)
    with pytest.raises(DataError, match="is larger than 1 MiB; keep only the columns needed"):
        parse_table("labels.csv", b"a" * (2**20 + 1))


def test_files_of_the_same_name_are_told_apart_by_folders_and_parts():
    paths = ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/cat/2.png", "more/3.png"]
    index = ImageIndex(dict(enumerate(paths)))
    assert index.find("dog/1.png", [], "") == 1
    assert index.find("cat/1.png", ["test"], "") == 2
    assert index.find("cat/1", [], "test") == 2
    assert index.find("data/train/cat/1.jpg", [], "") == 0
    assert index.find("train/2.png", [], "") is None
    assert index.find("1.png", [], "") == label_table._AMBIGUOUS


def test_names_that_fit_several_images_are_refused():
    index = ImageIndex({0: "a/1.png", 1: "b/1.png", 2: "a/2.png", 3: "b/2.png"})
    with pytest.raises(DataError, match="'file' of labels.csv, such as 1.png, fit several images each: write paths"):
        read_labels(parse_table("labels.csv", b"file,label\n1.png,a\n2.png,b\n"), index, "", "")
