from distft.data.formats import load_format


def test_the_whole_text_is_trained():
    (segment,) = load_format("text", {"text": "body"})({"body": "words"}).segments
    assert (segment.role, segment.text, segment.train) == ("text", "words", True)
