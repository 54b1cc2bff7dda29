"""One decorator that makes a class injectable by gin and serialisable by Keras.

A class decorated with `@register` needs nothing but a constructor with a closed signature:
gin refuses misspelt parameters when it parses a file, and `get_config`/`from_config` are
derived from the arguments the constructor was called with.
"""

import contextlib
import functools
import inspect

import gin
import keras

PACKAGE = "vae_arbcond"
POLICY = "dtype_policy"  # where a configuration keeps it, if it is not float32
_CLOSED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def register(cls):
    """Registers `cls` with gin (under its own name) and with Keras' serialisation.

    Args:
      cls: a Keras layer or model, or any class (a frozen dataclass, say) whose constructor
        arguments are numbers, strings, tuples, registered objects or Keras objects.

    Returns:
      `cls`, with `get_config` and `from_config` where it did not define them itself.

    Raises:
      TypeError: the constructor takes *args or **kwargs, so a misspelt name would pass.
    """
    init = cls.__init__
    signature = inspect.signature(init)
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind not in _CLOSED:
            raise TypeError(
                f"{cls.__name__}.__init__ takes {parameter}; a registered class lists its "
                f"arguments one by one, so that a misspelt name in a gin file is an error."
            )

    @functools.wraps(init)
    def recording_init(self, *args, **kwargs):
        # A registered subclass reaches its parent's constructor too: keep the outermost call.
        if "_constructor_arguments" not in self.__dict__:
            try:
                bound = signature.bind(self, *args, **kwargs)
            except TypeError as error:
                raise TypeError(
                    f"{cls.__name__}: {error}. In a gin file: {cls.__name__}.NAME = value."
                ) from None
            bound.apply_defaults()
            arguments = dict(list(bound.arguments.items())[1:])
            # Past Keras' and TensorFlow's attribute tracking: no second owner of the weights.
            object.__setattr__(self, "_constructor_arguments", arguments)
        init(self, *args, **kwargs)

    recording_init.__signature__ = signature  # Keras and gin both read it.
    cls.__init__ = recording_init
    if "get_config" not in cls.__dict__:
        cls.get_config = _get_config
    if "from_config" not in cls.__dict__:
        cls.from_config = classmethod(_from_config)
    keras.saving.register_keras_serializable(PACKAGE)(cls)
    return gin.register(cls, module=PACKAGE)


@contextlib.contextmanager
def dtype_policy(name: str):
    """Layers constructed inside have this policy, 'mixed_bfloat16' say."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _get_config(self):
    config = {
        key: _without_shapes(keras.saving.serialize_keras_object(value))
        for key, value in self._constructor_arguments.items()
    }
    policy = getattr(getattr(self, "dtype_policy", None), "name", "float32")
    # Keras' own layers store theirs; those made inside a registered class have no config.
    return config if policy == "float32" else {POLICY: policy, **config}


def _without_shapes(config):
    """Drops the build shapes of nested parts: the outermost model creates every weight."""
    if isinstance(config, dict):
        dropped = ("build_config", "build_input_shape")
        return {k: _without_shapes(v) for k, v in config.items() if k not in dropped}
    if isinstance(config, list):
        return [_without_shapes(entry) for entry in config]
    return config


def _from_config(cls, config):
    arguments = {
        key: keras.saving.deserialize_keras_object(value)
        for key, value in config.items()
        if key != POLICY
    }
    with dtype_policy(config.get(POLICY, "float32")):
        return cls(**arguments)
