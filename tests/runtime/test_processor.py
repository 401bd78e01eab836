"""What is known of the processor."""

from ddllm.runtime import processor


def test_processors_of_one_name_are_told_apart(monkeypatch):
    said = {"model name": "A Processor", "cpu family": "25", "model": "17", "flags": "fma avx2 avx512f avx512_bf16"}
    monkeypatch.setattr(processor, "_account", lambda: said)
    assert processor.describe_processor() == "A Processor (family 25, model 17), AVX-512" and processor.multiplies_bfloat16()
    said |= {"model": "1", "flags": "fma avx2"}
    assert processor.describe_processor() == "A Processor (family 25, model 1), AVX2" and not processor.multiplies_bfloat16()
    said.clear()
    assert processor.describe_processor() and not processor.multiplies_bfloat16()
