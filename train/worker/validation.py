"""The first piece of work on a job: are its files what can be trained on?"""

from train.worker.failures import INVALID_FILE
from train.worker.lease import Lease
from train.worker.order import Order, Outcome
from train.worker.piece import Piece
from train.worker.recipe import settings_for

_NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


class Validation(Piece):
    """Checks the files, and puts the job into the queue of those to be trained."""

    def work(self, lease: Lease) -> None:
        """validating_files → queued, or failed."""
        settings = settings_for(self.job)
        order = lease.patiently(lambda: self.place.order("validate", self.job, settings))
        outcome = self._checked(lease, order)
        if outcome.status == "stopped":
            self.give_back("The check of the files was stopped; it begins anew")
        elif outcome.status == "failed":
            self.failed(outcome)
        else:
            self.place.folder(self.job).remember_rows(outcome.values["rows"])
            lease.patiently(lambda: self.claim.note(outcome.message, key="rows"))
            lease.patiently(lambda: self.claim.validated(outcome.values["hyperparameters"]))

    def _checked(self, lease: Lease, order: Order) -> Outcome:
        """What the child finds in the time that one job's files may take from the others'."""
        seconds = self.place.settings.validate_seconds
        try:
            return self.place.child(lease, order, _NO_GPU, self.may_go_on_for(seconds))
        except TimeoutError:
            text = (
                f"The check of the files took longer than {seconds:g} seconds: give fewer or "
                "shorter rows."
            )
            return Outcome("failed", INVALID_FILE["training_file"], text, "training_file")
