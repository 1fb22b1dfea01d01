// Package nettest holds the end-to-end tests: real daemons, each on a host of
// its own in network namespaces, with faults made around them and judges that
// don't ask the daemons (see package lab). There is nothing in it but tests;
// they need root.
//
// The tests read as scenarios: what happens, and who must serve then. What
// must hold in every one of them is checked after each, in judge_test.go.
// TestChaos draws its faults instead, and goes on for as long as it is told to
// (`make chaos`, `make trials`).
package nettest
