"""What a training says of itself."""


def show_in_terminals(trainer) -> None:
    """A text progress bar: transformers' own is a widget in a kernel, which a headless run would not show."""
    from tqdm import tqdm
    from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback
    from transformers.utils.notebook import NotebookProgressCallback

    class Bar(TrainerCallback):
        def on_train_begin(self, arguments, state, control, **_):
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", mininterval=2)

        def on_step_end(self, arguments, state, control, **_):
            self.bar.update(state.global_step - self.bar.n)

        def on_log(self, arguments, state, control, logs=None, **_):
            for name in logs.keys() & {"loss", "eval_loss"}:
                if hasattr(self, "bar"):
                    self.bar.set_postfix({name: f"{float(logs[name]):.3f}"}, refresh=False)

        def on_train_end(self, arguments, state, control, **_):
            self.bar.close()

    for callback in (NotebookProgressCallback, ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    if trainer.is_world_process_zero():
        trainer.add_callback(Bar)
