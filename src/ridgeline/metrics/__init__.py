"""F5: metrics: the numbers that a training plan or a service is judged by."""

from ridgeline.metrics.training import OperatorTime, Prediction, Rung

__all__ = ["OperatorTime", "Prediction", "Rung"]
