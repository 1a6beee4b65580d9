"""Serves Keystone or Heat of the newest release, each in one process; run by the Python of that release's folder.

openstack_newest.py keystone HOST PORT     OS_KEYSTONE_CONFIG_FILES names the configuration
openstack_newest.py heat HOST PORT FILE    API and engine, with this configuration
"""

import sys

import waitress


def keystone(host: str, port: str) -> None:
    """Serves until the end of the process."""
    from keystone.server.wsgi import initialize_public_application

    waitress.serve(initialize_public_application(), host=host, port=int(port))


def heat(host: str, port: str, file: str) -> None:
    """Serves until the end of the process; API and engine talk over a transport that lives in it alone."""
    from oslo_service import backend

    backend.init_backend(backend.BackendType.THREADING)

    from heat.common import config, messaging
    from heat.engine.service import EngineService
    from oslo_config import cfg
    from oslo_log import log

    log.register_options(cfg.CONF)
    cfg.CONF(["--config-file", file], project="heat", prog="heat-engine")
    log.setup(cfg.CONF, "heat")
    messaging.setup()
    EngineService(cfg.CONF.host, "engine").start()
    waitress.serve(config.load_paste_app("heat-api"), host=host, port=int(port))


if __name__ == "__main__":
    service, *arguments = sys.argv[1:]
    del sys.argv[1:]  # both take what is left there for theirs
    if service == "keystone":
        keystone(*arguments)
    else:
        heat(*arguments)
