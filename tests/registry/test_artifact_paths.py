from image_classifier.registry.artifact_paths import REPORT, page_of_run


def test_the_page_of_a_run_has_no_credentials():
    page = page_of_run("https://me:secret@mlflow.example.org:5000/", "3", "abc", REPORT)
    assert page == "https://mlflow.example.org:5000/#/experiments/3/runs/abc/artifacts/report.html"
    assert page_of_run("http://mlflow", "3", "abc") == "http://mlflow/#/experiments/3/runs/abc"
