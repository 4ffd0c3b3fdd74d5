# All tasks; make help lists them. The scripts they call can also be run directly.

.DEFAULT_GOAL := help
DENY_VERSION := 0.18.3
# The release before this one.
FROM := 57543e491c
.PHONY: help up down clean-local test test-web pictures test-faults test-upgrade test-stack test-stack-down test-containers test-monitoring lint-k8s test-k8s contract lint deny sbom loadtest bench claims

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r target text; do \
	  printf '  %-17s %s\n' $$target "$$text"; done

# --- run the system on this machine, without Docker (ports: KAFKA_PORT=… make up)

up: ## build and start the system under .local, and send a like through it
	@deploy/local/up.sh

down: ## stop the system and keep its data
	@deploy/local/down.sh

clean-local: ## stop the system and remove its data and logs
	@deploy/local/down.sh clean

# --- check

test: ## run all tests with a temporary Kafka and PostgreSQL (ARGS="-p like-api name")
	@deploy/local/test.sh run $(ARGS)

test-web: ## build, lint and test the web component, in Chromium against real services
	@web/test.sh

pictures: ## make the pictures of the README from the demo page, in Chromium
	@web/pictures.sh

test-faults: ## break processes, servers and connections; compare acknowledged with counted (ARGS="--seed 7 --cluster")
	@deploy/local/test.sh faults $(ARGS)

test-upgrade: ## upgrade from an older release under load (FROM=commit, ARGS="--seed 7")
	@deploy/local/test.sh upgrade $(FROM) $(ARGS)

test-stack: ## start a Kafka and a PostgreSQL for tests and leave them running (.local/test/env)
	@deploy/local/test.sh up

test-stack-down: ## stop them and remove their data
	@deploy/local/test.sh down

test-containers: ## build the images, start them with Docker Compose and send likes
	@deploy/test-containers.sh

test-monitoring: ## half a minute of load, with each query of the dashboard and each alert rule on a Prometheus
	@loadtest/ci-smoke.sh

lint-k8s: ## check the Kubernetes manifests against schemas, and their settings
	@deploy/k8s/check.sh

test-k8s: ## have a real API server check them (KUBECONFIG, or K8S_SERVER=program that starts one)
	@deploy/k8s/check.sh server

contract: ## check the API against its OpenAPI description with generated requests (SEED=7)
	@tests/contract/run.sh

lint: ## formatting, clippy, documentation, links, shell scripts, alerts, manifests: no warning passes
	@deploy/local/lint.sh

# Advisories need the network: ARGS="advisories licenses bans sources", as the hosted workflow does.
deny: ## licences, banned and duplicate crates, sources (ARGS="bans")
	@cargo deny --version 2>/dev/null | grep -qxF 'cargo-deny $(DENY_VERSION)' || \
	  cargo install --locked cargo-deny --version $(DENY_VERSION)
	@cargo deny --locked check $(or $(ARGS),licenses bans sources)

sbom: ## write the bill of materials and the licences of both services to .local/sbom
	@deploy/sbom.sh

# --- measure it

loadtest: ## send likes over HTTP to the system of make up and check the counts (PROFILE=burst)
	@loadtest/run.sh

bench: ## measure both services against what limits them (QUICK=1, ARGS="--only drain")
	@loadtest/measure.sh bench $(ARGS)

claims: ## test the assumptions of the design (ARGS="--only 3,9")
	@loadtest/measure.sh claims $(ARGS)
