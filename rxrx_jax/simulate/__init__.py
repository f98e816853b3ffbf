"""A simulated screen with RxRx1's design, for tests, demonstrations and methods; numpy and scipy only."""
