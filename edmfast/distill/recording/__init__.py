"""Loggers of training runs: JSON lines, TensorBoard, and Weights & Biases."""

from edmfast.distill.recording.loggers import JsonLines, Logger, TensorBoard, WeightsAndBiases

__all__ = ["JsonLines", "Logger", "TensorBoard", "WeightsAndBiases"]
