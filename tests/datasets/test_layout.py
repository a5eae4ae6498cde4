import pytest

from image_classifier.datasets.image_source import UNLABELED
from image_classifier.datasets.layout import parse_layout, parts_of_files
from image_classifier.errors import DataError


def images(folders, classes="a b", count=2):
    """Paths of images in class folders below these folders."""
    return [f"{folder}/{name}/{i}.png" for folder in folders.split() for name in classes.split() for i in range(count)]


def flat(folders, count=2):
    """Paths of images directly in these folders."""
    return [f"{folder}/{i}.png" for folder in folders.split() for i in range(count)]


def parts(paths, **options):
    """Number of training, validation and test images."""
    layout = parse_layout(paths, "here", **options)
    validation, test = int(layout.in_validation.sum()), int(layout.in_test.sum())
    return len(layout.labels) - validation - test, validation, test


@pytest.mark.parametrize(
    ("paths", "classes", "test"),
    [
        (["a/1.png", "b/1.png"], ("a", "b"), 0),
        (["top/a/1.png", "top/b/1.JPG"], ("a", "b"), 0),
        (["top/train/a/1.png", "top/test/b/1.png"], ("a", "b"), 1),
        (["train/1.png", "bus/1.png"], ("bus", "train"), 0),
        (["a/deep/1.png", "b/1.png", "b/deeper/2.png"], ("a", "b"), 0),
        (["train/a/1.png", "train/b/1.png"], ("a", "b"), 0),
        (["a/1.png", "b/1.png", "c/"], ("a", "b", "c"), 0),
        (["train/a/1.png", "test/b/1.png", "more/c/1.png"], ("a", "b"), 1),
        (["a/1.png", "b/1.png", "c/1.png", "test/a/1.png", "test/b/1.png"], ("a", "b", "c"), 2),
        (["top/a/1.png", "top/b/1.png", "top/test/b/1.png"], ("a", "b"), 1),
        (["train/1.png", "bus/1.png", "test/train/1.png", "test/bus/1.png", "c/"], ("bus", "c", "train"), 2),
        (["a/1.png", "test/1.png", "test/deep/2.png"], ("a", "test"), 0),
        (["train/1.png", "bus/1.png", "unlabeled/1.png"], ("bus", "train"), 0),
        (["train/1.png", "bus/1.png", "unlabeled/deep/1.png", "unlabeled/"], ("bus", "train"), 0),
    ],
)
def test_classes_and_parts_follow_from_the_layout(paths, classes, test):
    layout = parse_layout(paths, "here")
    assert (layout.classes, layout.in_test.sum()) == (classes, test)


def test_unlabeled_images_are_kept_without_a_label_if_no_labels_are_needed():
    layout = parse_layout(["train/a/1.png", "unlabeled/1.png", "unlabeled/b/2.png"], "here", labels_needed=False)
    assert (layout.classes, list(layout.labels), layout.warnings) == (("a",), [0, UNLABELED, UNLABELED], ())


@pytest.mark.parametrize(
    ("folders", "counts"),
    [
        ("seg_train seg_test", (4, 0, 4)),
        ("training_set test_set", (4, 0, 4)),
        ("Training Testing", (4, 0, 4)),
        ("train2017 val2017", (4, 4, 0)),
        ("train_data test", (4, 0, 4)),
        ("images_train images_val x_test", (4, 4, 4)),
        ("TrainImages TestImages", (4, 0, 4)),
        ("chest_train photos_test", (4, 0, 4)),
        ("train1 train2 test", (8, 0, 4)),
        ("trainval test", (4, 0, 4)),
        ("train holdout", (4, 0, 4)),
        ("train hold-out", (4, 0, 4)),
        ("train held_out", (4, 0, 4)),
        ("train eval", (4, 0, 4)),
        ("train evaluation", (4, 0, 4)),
        ("train val eval", (4, 4, 4)),
        ("train test eval", (4, 4, 4)),
        ("train test holdout", (4, 0, 8)),
        ("siteA_train siteA_test siteB_train siteB_test", (8, 0, 8)),
        ("data/train data/test", (4, 0, 4)),
        ("top/seg_train/seg_train top/seg_test/seg_test", (4, 0, 4)),
        ("train/images test/images", (4, 0, 4)),
    ],
)
def test_folders_of_other_names_are_parts(folders, counts):
    layout = parse_layout(images(folders), "here")
    assert layout.classes == ("a", "b")
    assert parts(images(folders)) == counts
    assert layout.warnings == ()


def test_folders_next_to_parts_are_skipped():
    layout = parse_layout([*images("seg_train seg_test"), *flat("seg_pred", 1), *images("unlabeled2017")], "here")
    assert (layout.classes, len(layout.labels)) == (("a", "b"), 8)
    assert layout.warnings[0] == "skipped 1 image outside of the train and test folders: seg_pred/0.png"
    assert layout.warnings[1].startswith("skipped 4 images in the folder of unlabeled images: unlabeled2017/a/0.png")


@pytest.mark.parametrize(
    "paths",
    [
        images("cat dog", "train test"),
        [*images("cat dog", "train"), *images("cat", "test")],
        [path.replace("/t", f"/{path[:3]}_t") for path in images("cat dog", "train test")],
        ["/".join(["photos", *path.split("/")]) for path in images("cat dog", "train test")],
        flat("cat_train cat_test dog_train dog_test"),
        flat("train-cat test-cat train-dog test-dog"),
    ],
)
def test_class_folders_may_contain_the_parts(paths):
    layout = parse_layout(paths, "here")
    assert (layout.reading, layout.classes) == ("class-first", ("cat", "dog"))
    assert parse_layout(paths, "here", layout="class-first").classes == ("cat", "dog")
    assert parts(paths) == (4, 0, len(paths) - 4)


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        (flat("boots training_shoes"), ("boots", "training_shoes")),
        (flat("boots training_shoes test_strips"), ("boots", "test_strips", "training_shoes")),
        (flat("bus car train"), ("bus", "car", "train")),
        ([*images("bus", "x"), *images("car", "y"), *images("train", "z")], ("bus", "car", "train")),
        ([*flat("bus car train"), *images("test", "bus car train")], ("bus", "car", "train")),
        ([*images("train", "v1 v2"), *images("bus", "v3"), *images("test", "bus train")], ("bus", "train")),
        (flat("invalid valid"), ("invalid", "valid")),
        (flat("dev prod"), ("dev", "prod")),
        (images("cat dog", "train"), ("cat", "dog")),
        (flat("cat_train dog_train"), ("cat_train", "dog_train")),
        (images("my-test-photos", "cat dog"), ("cat", "dog")),
        (images("test-data", "cat dog"), ("cat", "dog")),
        ([*images("top", "cat dog"), "logo.png"], ("cat", "dog")),
    ],
)
def test_a_class_with_the_name_of_a_part_stays_a_class(paths, classes):
    assert parse_layout(paths, "here").classes == classes


@pytest.mark.parametrize(
    ("paths", "first", "second"),
    [
        (
            flat("a b c d e f g h i j test"),
            "--layout classes (11 classes: a, b, c, d, e and 6 more; 22 training images)",
            "--layout parts (10 classes: a, b, c, d, e and 5 more; 20 training images, 2 images without a class)",
        ),
        (
            flat("bus car train test"),
            "--layout classes (4 classes: bus, car, test, train; 8 training images)",
            "--layout parts (3 classes: bus, car, train; 6 training images, 2 images without a class)",
        ),
        (
            [*images("train"), *flat("bus car")],
            "--layout classes (3 classes: bus, car, train; 8 training images)",
            "--layout parts (2 classes: a, b; 4 training images, 4 images without a class)",
        ),
        (
            images("train extra"),
            "--layout classes (2 classes: extra, train; 8 training images)",
            "--layout parts (2 classes: a, b; 4 training images, 4 images without a class)",
        ),
        (
            [*images("cat", "train test"), *flat("dog")],
            "--layout classes (2 classes: cat, dog; 6 training images)",
            "--layout class-first (2 classes: cat, dog; 4 training images, 2 test images)",
        ),
        (
            [*flat("cat dog"), *images("cat dog", "test")],
            "--layout classes (2 classes: cat, dog; 8 training images)",
            "--layout class-first (2 classes: cat, dog; 4 training images, 4 test images)",
        ),
        (
            images("left/train left/test right/train right/test"),
            "--layout parts (2 classes: a, b; 8 training images, 8 test images)",
            "--layout class-first (2 classes: left, right; 8 training images, 8 test images)",
        ),
    ],
)
def test_folders_that_can_be_read_in_two_ways_are_refused_with_both(paths, first, second):
    with pytest.raises(DataError) as caught:
        parse_layout(paths, "here")
    assert str(caught.value) == f"here: the folders can be read in two ways; choose {first} or {second}"
    for shown in (first, second):
        name, classes = shown.split()[1], int(shown.split("(")[1].split()[0])
        layout = parse_layout(paths, "here", layout=name)
        assert (layout.reading, len(layout.classes)) == (name, classes)
    assert len(parse_layout(paths, "here", labels_needed=False).labels) == len(paths)


def test_the_chosen_layout_makes_every_folder_a_class():
    paths = flat("test train unlabeled")
    assert parse_layout(paths, "here", layout="classes").classes == ("test", "train", "unlabeled")


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("parts", "layout is parts, but none of the folders has the name of a part, such as train or test: cat, dog"),
        ("class-first", "layout is class-first, but no class folder has a subfolder such as train or test"),
    ],
)
def test_a_layout_that_the_folders_do_not_have_is_refused(layout, message):
    with pytest.raises(DataError, match=f"here: {message}"):
        parse_layout(flat("cat dog"), "here", layout=layout)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train-00000-of-00001", "validation-00000-of-00001", "eval-0"], ["train", "validation", "test"]),
        (["train", "test", "eval"], ["train", "test", "validation"]),
        (["data/train/0000", "data/test/0000"], ["train", "test"]),
        (["train_data", "photos-test"], ["train", "test"]),
        (["crash-test-photos"], [""]),
        (["photos", "more"], ["", ""]),
    ],
)
def test_names_of_files_and_their_folders_mark_the_parts(names, expected):
    assert parts_of_files([f"{name}.parquet" for name in names]) == expected


def test_class_folders_that_all_have_the_same_subfolders_are_named_in_a_warning():
    (warning,) = parse_layout(images("fold_1 fold_2"), "here").warnings
    assert warning == (
        "the classes are fold_1, fold_2, each with the subfolders a, b; if those are the classes, move them up, "
        "else confirm with --layout classes"
    )
    assert not parse_layout(images("fold_1 fold_2"), "here", layout="classes").warnings
    assert not parse_layout(images("cat dog", "a") + images("cat", "b"), "here").warnings


def test_photos_of_formats_that_are_not_read_are_not_called_other_files():
    paths = ["cat/1.png", "dog/1.png", "dog/2.HEIC", "dog/notes.txt", "dog/.3.heic"]
    assert parse_layout(paths, "here").warnings == (
        "skipped 1 image to convert to JPEG or PNG: dog/2.HEIC",
        "skipped 2 non-image files: dog/notes.txt, dog/.3.heic",
    )
    with pytest.raises(DataError, match=r"only 2 images to convert to JPEG or PNG \(cat/1.heic, dog/1.nef\)"):
        parse_layout(["cat/1.heic", "dog/1.nef", "readme.md"], "here")
