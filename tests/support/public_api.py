"""A script that uses only the public API. `make lint` checks its types with mypy --strict; nothing runs it."""

from __future__ import annotations

import wav2lip_npu


def use() -> None:
    """Call each public function with typed results."""
    models: wav2lip_npu.Models = wav2lip_npu.load_models(device="cpu")
    report: wav2lip_npu.DubReport = wav2lip_npu.dub("a.mp4", "b.wav", "c.mp4", models=models, crf=20)
    spans: list[tuple[int, int]] = report.faceless_spans
    for frame in wav2lip_npu.dub_frames([], "b.wav", fps=25, models=models):
        mask_height: int = frame.mask.shape[0]
    with models.stream("a.mp4", options=wav2lip_npu.StreamOptions(fps=25)) as stream:
        stream.push_audio(b"", 16_000)
        for shown in stream:
            speaks: bool = shown.speaks
    options = wav2lip_npu.DubOptions(extend="hold", encode=wav2lip_npu.EncodeOptions(crf=20))
    for result in wav2lip_npu.run_jobs([wav2lip_npu.Job(face="a", audio="b", outfile="c")], models):
        status: str = result.status
    results: list[wav2lip_npu.JobResult] = wav2lip_npu.run_batch("jobs.csv")
    summary: wav2lip_npu.PreprocessSummary = wav2lip_npu.preprocess("videos", "clips", workers=2)
    trained: wav2lip_npu.TrainResult = wav2lip_npu.train_syncnet("clips", "syncnet", steps=10)
    trained = wav2lip_npu.train_generator("clips", "generator", steps=10)
    exported: wav2lip_npu.ExportedFile = wav2lip_npu.export_onnx("starter", "generator.onnx")
    evaluation: wav2lip_npu.EvaluationReport = wav2lip_npu.evaluate("c.mp4", truth="a.mp4")
    ssim: float | None = evaluation.figures["ssim_mouth"].generated
    try:
        pass
    except wav2lip_npu.Wav2LipError as error:
        message: str = str(error)
