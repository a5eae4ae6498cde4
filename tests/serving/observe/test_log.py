"""Log lines."""

from image_classifier.serving.observe.log import logfmt


def test_a_value_cannot_forge_another_field():
    assert logfmt(a="x", b="y c=z", d='"\n', e=None, f="") == 'a=x b="y c=z" d="\\"\\n" f=""'
