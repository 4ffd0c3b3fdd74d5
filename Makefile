# Every task of this repository, one line of help each: make help.
# What they do is in the scripts they name; those can be run by hand too.

.DEFAULT_GOAL := help
DENY_VERSION := 0.18.3
.PHONY: help up down clean-local test test-faults test-stack test-stack-down test-containers contract lint deny loadtest drain bench claims replays

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r target text; do \
	  printf '  %-17s %s\n' $$target "$$text"; done

# --- run it on this machine, without Docker (ports: KAFKA_PORT=… make up)

up: ## build and start everything under .local, and send a like through it
	@deploy/local/up.sh

down: ## stop it, keep its data
	@deploy/local/down.sh

clean-local: ## stop it, remove its data and logs
	@deploy/local/down.sh clean

# --- check it

test: ## run all tests on a Kafka and a PostgreSQL of their own (ARGS="-p like-api name")
	@deploy/local/test.sh run $(ARGS)

test-faults: ## break processes, servers and connections, and count what was lost (ARGS="--seed 7 --only kill")
	@deploy/local/test.sh faults $(ARGS)

test-stack: ## start such a pair for development and leave it running (.local/test/env)
	@deploy/local/test.sh up

test-stack-down: ## stop that pair, remove its data
	@deploy/local/test.sh down

test-containers: ## build the images, start them with Docker Compose and try them
	@deploy/test-containers.sh

contract: ## thousands of requests made from the API's description, each answer checked against it (SEED=7)
	@tests/contract/run.sh

lint: ## formatting, clippy, documentation, links, shell scripts: no warning passes
	@deploy/local/lint.sh

# Advisories need the network: ARGS="advisories licenses bans sources", as the hosted workflow does.
deny: ## licences, banned and duplicate crates, sources (ARGS="bans")
	@cargo deny --version 2>/dev/null | grep -qxF 'cargo-deny $(DENY_VERSION)' || \
	  cargo install --locked cargo-deny --version $(DENY_VERSION)
	@cargo deny --locked check $(or $(ARGS),licenses bans sources)

# --- measure it

loadtest: ## likes over HTTP on what make up has started, checked against the counts (PROFILE=burst)
	@loadtest/run.sh

drain: ## how fast a backlog is worked off, on servers of its own (ARGS="--events 100000")
	@loadtest/drain.sh $(ARGS)

bench: ## the services against what limits them: tables, a chart, docs/PERFORMANCE.md (QUICK=1)
	@loadtest/bench.sh $(ARGS)

claims: ## the claims the design rests on, tried and written to docs/CLAIMS.md (ARGS="--only 3,9")
	@loadtest/claims.sh $(ARGS)

replays: ## memory, disk and time of audit, audit --log and rebuild at 1 and 10 million events
	@loadtest/replays.sh $(ARGS)
