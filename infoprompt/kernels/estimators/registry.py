"""Every estimator by its name."""

from infoprompt.kernels.estimators.lower_bounds import Flo, InfoNCE, Interpolated, Nwj, Tuba
from infoprompt.kernels.estimators.ratios import DonskerVaradhan, Jsd, Mine, Smile
from infoprompt.kernels.estimators.scores import Estimator

ESTIMATORS: dict[str, Estimator] = {
    estimator.name: estimator
    for estimator in (InfoNCE(), Nwj(), Jsd(), DonskerVaradhan(), Mine(), Smile(), Tuba(), Interpolated(), Flo())
}
