# Entry points for people and CI; the work is in scripts/ and in `cargo xtask`.
.DEFAULT_GOAL := help
.PHONY: help setup up down test lint bench soak clean sim mutations schemathesis fuzz kernel-wireguard

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install the system packages that are missing
	@scripts/setup.sh

up: ## Build and start oak with a demo on this machine
	@scripts/up.sh

down: ## Stop it
	@scripts/down.sh

test: ## Run all checks and tests
	@scripts/test.sh

lint: ## Run the static checks only
	@scripts/test.sh check

sim: ## Simulate 10000 histories in which everything goes wrong
	@scripts/sim.sh

mutations: ## See that the simulator notices deliberate bugs
	@cargo xtask mutations

schemathesis: ## Let schemathesis invent requests from the document of the API
	@scripts/schemathesis.sh

fuzz: ## Feed everything that reads from the network with invented bytes (FUZZ_SECONDS, 3600 for each)
	@scripts/fuzz.sh

kernel-wireguard: ## Test the tunnel with the kernel's WireGuard, in a virtual machine that has it
	@scripts/kernel-wireguard.sh

bench: ## Run the benchmarks
	@scripts/bench.sh

soak: ## Run it under faults and watch it (SOAK_MINUTES, 60; SOAK_SEED)
	@scripts/soak.sh

clean: ## Remove build output and the state of 'make up'
	@scripts/clean.sh
