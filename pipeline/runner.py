"""Run the steps of a plan that are not sealed yet, a child process each, and leave everything resumable."""

import time
from collections.abc import Sequence

from pipeline import history, share
from pipeline.display import Display
from pipeline.errors import StepFailed, Stopped
from pipeline.job import Job
from pipeline.plan import Plan, sealed_inputs, workflow
from pipeline.process import in_words, wait_for_any
from pipeline.provenance import provenance
from pipeline.schedule import Schedule
from pipeline.scratch import own_scratch
from pipeline.services import Server
from pipeline.signals import stop_signals
from pipeline.stage import Needs, load_stage
from pipeline.step import Service, Step
from pipeline.store import Store

POLL_SECONDS = 0.5
"""Between two looks at progress; a process that ends is noticed at once."""
SERVER_PATIENCE_SECONDS = 2.0
"""How long a server may take to end after the step that failed because of it."""


class Runner:
    """One `run` of a recipe: what to do comes from the plan, what is done is in the store."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        record: history.History,
        display: Display,
        resume_command: str,
        max_parallel: int = 1,
    ) -> None:
        """`max_parallel`: steps that ask no server and run side by side, if the machine has room for them."""
        self.plan = plan
        self.store = store
        self.record = record
        self.display = display
        self.resume_command = resume_command
        self.max_parallel = max_parallel
        self._provenance = provenance()
        self._schedule = Schedule([])
        self._positions: dict[str, str] = {}
        self._jobs: list[Job] = []
        self._machine = share.of_this_machine()
        self._failures: list[str] = []
        self._server: Server | None = None
        self._restarted: set[str] = set()
        """Fingerprints of servers that were started again."""

    def run(self, steps: list[Step]) -> None:
        """Do every step of `steps` that is not sealed. Raises StepFailed or Stopped; both leave the store valid."""
        pending = [step for step in steps if not self.store.is_sealed(step.stage, step.fingerprint)]
        scoring = workflow().SCORING if self._machine.gpus else ()
        self._schedule = Schedule(pending, scoring, self.max_parallel, self._machine, self._needs)
        self._positions = {step.name: f"{index + 1}/{len(pending)}" for index, step in enumerate(pending)}
        with own_scratch():
            self._work()

    def _work(self) -> None:
        try:
            with stop_signals():
                while not self._schedule.is_finished:
                    for step in self._schedule.take():
                        self._start(step)
                    self._wait()
        except KeyboardInterrupt:
            if not self._failures:
                raise Stopped(f"stopped; everything finished is kept, continue with: {self.resume_command}") from None
        finally:
            self._stop_jobs(self._jobs)
            self._stop_server()
        if self._failures:
            raise StepFailed("\n\n".join(self._failures))

    def _needs(self, step: Step) -> Needs | None:
        """What a step whose inputs are there says that it takes."""
        ask = getattr(load_stage(step.stage), "needs", None)
        return ask(step.config, step.resources, sealed_inputs(step, self.store)) if ask else None

    def _start(self, step: Step) -> None:
        if step.service:
            self._provide_service(step.service)
        elif self._schedule.is_alone(step):
            self._stop_server()
        self.display.started(step.name, self._positions[step.name])
        with share.pinned(part := self._schedule.share(step)):
            environment = part.environment(self._machine)
            server = self._server if step.service else None
            self._jobs.append(Job(step, self.store, server, self._provenance, environment))

    def _wait(self) -> None:
        """Until a process ends, but not for long."""
        processes = [job.process for job in self._jobs]
        if self._server and self._clients():
            processes.append(self._server.process)
        wait_for_any(processes, POLL_SECONDS)
        self._look_at_server()
        self._look_at_jobs()

    def _look_at_server(self) -> None:
        """Replace one that ended or hangs. (Nobody notices when nobody asks it.)"""
        if self._server and (clients := self._clients()):
            patience_seconds = SERVER_PATIENCE_SECONDS if any(job.process.poll() for job in clients) else 0.0
            if trouble := self._server.trouble(patience_seconds):
                self._replace_server(self._server, trouble)

    def _look_at_jobs(self) -> None:
        """Show what goes on; seal off what has ended. Raises StepFailed at the first failure."""
        for job in list(self._jobs):
            if job.process.poll() is None:
                self.display.tick(job.step.name, job.elapsed_seconds, job.progress())
            else:
                self._finish(job)

    def _finish(self, job: Job) -> None:
        self._jobs.remove(job)
        code = job.end()
        if code == Stopped.exit_code:
            raise KeyboardInterrupt
        if code == 0 and job.is_sealed:
            self._done(job)
        elif self.max_parallel == 1:
            raise StepFailed(self._failure(job, code))
        else:
            self._give_up(job, code)

    def _give_up(self, job: Job, code: int) -> None:
        """What others have begun is finished, since it may be hours of work; nothing else is started."""
        self._failures.append(self._failure(job, code))
        self._schedule.give_up(job.step)
        self.display.failed(job.step.name)
        if self._jobs:
            names = ", ".join(other.step.name for other in self._jobs)
            self.display.note(f"{job.process.log_tail(1)}\nwhat runs is finished first: {names}; Ctrl-C stops it")

    def _done(self, job: Job) -> None:
        self.display.finished(job.step.name, job.elapsed_seconds)
        self._schedule.finish(job.step)
        self.record = history.update(self.store, self.record.recipe, steps={job.step.name: job.step.fingerprint})

    def _stop_jobs(self, jobs: Sequence[Job]) -> None:
        """All at once, each with time to save its work; one that was done nevertheless counts as done."""
        for job in jobs:
            job.process.ask_to_stop()
        for job in list(jobs):
            job.end()
            self._jobs.remove(job)
            if job.is_sealed:
                self._done(job)
            else:
                self.display.stopped(job.step.name)

    def _clients(self) -> list[Job]:
        return [job for job in self._jobs if job.step.service]

    def _provide_service(self, service: Service) -> None:
        """Have `service` running, and no other: two models do not fit into one machine's memory."""
        if self._server and self._server.service.fingerprint == service.fingerprint:
            return
        self._stop_server()
        name, started = f"server for {_served(service)}", time.monotonic()
        self.display.started(name, "")

        def tick(elapsed_seconds: float) -> None:
            self.display.tick(name, elapsed_seconds, {})
            self._look_at_jobs()

        self._server = Server.start(service, self.store, tick)
        self.display.finished(name, time.monotonic() - started)

    def _replace_server(self, server: Server, trouble: str) -> None:
        """Stop it and its clients, which run again on a new one and ask what is unanswered.

        Raises StepFailed the second time.
        """
        clients, failure = self._clients(), server.failure(trouble)
        for job in clients:
            job.process.ask_to_stop()
        self._stop_server(grace_seconds=1.0)
        self._stop_jobs(clients)
        if server.service.fingerprint in self._restarted:
            advice = f"it was started again once already; after mending the cause, continue with: {self.resume_command}"
            raise StepFailed(f"{failure}\n\n{advice}")
        self._restarted.add(server.service.fingerprint)
        self.display.note(
            f"the server {trouble}; it is started again for what is unanswered. Log: {server.process.log}"
        )
        self._schedule.put_back([job.step for job in clients if job.step in self._schedule.running])

    def _stop_server(self, grace_seconds: float = 10.0) -> None:
        if self._server:
            self._server.stop(grace_seconds)
            self._server = None

    def _failure(self, job: Job, code: int) -> str:
        return (
            f"step {job.step.name} failed ({in_words(code)}); the end of its log:\n\n{job.process.log_tail()}\n\n"
            f"log: {job.process.log}\nafter mending the cause, continue with: {self.resume_command}"
        )


def _served(service: Service) -> str:
    return ", ".join(step.name for step in service.dependencies())
